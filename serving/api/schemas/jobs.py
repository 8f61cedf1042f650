"""A job as clients see it."""

from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, Field

from pipelines.request import FramesRequest, StoredFrame
from serving.jobs.job import AnyResult, Attempt, Job, JobResult, Kind, Priority, Status, StoredImage


class JobErrorBody(BaseModel):
    code: str
    message: str


class AttemptBody(BaseModel):
    """One attempt that did not succeed."""

    number: int
    started_at: int
    ended_at: int
    code: str
    message: str


class ImageReference(BaseModel):
    url: str
    seed: int
    width: int
    height: int
    content_type: str
    bytes: int
    sha256: str
    is_nsfw: bool | None = Field(description="null: not looked at.")


class ImageJobResult(BaseModel):
    images: list[ImageReference]
    inference_time_s: float
    queue_time_s: float


class FaceBody(BaseModel):
    """In pixels of the still."""

    x: int
    y: int
    w: int
    h: int
    score: float


class FrameBody(BaseModel):
    url: str
    time_s: float = Field(description="From the first frame of the video.")
    width: int
    height: int
    sharpness: float
    brightness: float = Field(description="Mean luma, 0 to 255.")
    scene: int
    faces: list[FaceBody]
    coverage: str | None = Field(description="Of the largest face: close, medium or full; null without one.")
    nsfw: float | None = Field(description="0 to 1; null: not looked at.")
    is_nsfw: bool | None
    content_type: str
    bytes: int
    sha256: str


class RejectedBody(BaseModel):
    time_s: float
    reason: str


class FramesJobResult(BaseModel):
    frames: list[FrameBody]
    rejected: list[RejectedBody]
    counts: dict[str, int] = Field(description="Stills looked at, by what became of them; `kept` among them.")
    contact_sheet_url: str
    inference_time_s: float
    queue_time_s: float


class JobBody(BaseModel):
    id: str
    object: Literal["job"] = "job"
    kind: Kind
    status: Status
    progress: int
    step: int
    steps: int
    created_at: int
    expires_at: int
    started_at: int | None
    finished_at: int | None
    attempts: int
    history: list[AttemptBody] = Field(description="Attempts that did not succeed, oldest first.")
    priority: Priority
    model: str
    backend: str | None
    request: dict[str, Any]
    result: ImageJobResult | FramesJobResult | None
    error: JobErrorBody | None
    metadata: dict[str, str]
    webhook_url: str | None
    queue_position: int | None = Field(description="Jobs expected to go first; null when it does not wait.")
    eta_s: float | None = Field(description="Seconds until it will probably have ended; null when nobody can tell.")


class JobList(BaseModel):
    object: Literal["list"] = "list"
    data: list[JobBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


def job_body_of(
    job: Job, *, sign: Callable[[str], str], queue_position: int | None = None, eta_s: float | None = None
) -> JobBody:
    """A job as clients see it; `sign` makes a URL of an object's key."""
    return JobBody(
        id=job.id,
        kind=job.kind,
        status=job.status,
        progress=job.progress,
        step=job.step,
        steps=job.steps,
        created_at=int(job.created_at),
        expires_at=int(job.expires_at),
        started_at=None if job.started_at is None else int(job.started_at),
        finished_at=None if job.finished_at is None else int(job.finished_at),
        attempts=job.attempts,
        history=[attempt_body(attempt) for attempt in job.history],
        priority=job.priority,
        model=job.model_id,
        backend=job.backend,
        request=job_request(job),
        result=None if job.result is None else result_body(job.result, sign),
        error=None if job.error is None else JobErrorBody(code=job.error.code, message=job.error.message),
        metadata=job.metadata,
        webhook_url=job.webhook_url,
        queue_position=queue_position,
        eta_s=None if eta_s is None else round(eta_s, 1),
    )


def result_body(result: AnyResult, sign: Callable[[str], str]) -> ImageJobResult | FramesJobResult:
    """What came of a job, with a URL for each file."""
    if isinstance(result, JobResult):
        images = [image_reference(image, sign(image.key)) for image in result.images]
        return ImageJobResult(images=images, inference_time_s=result.engine_s, queue_time_s=result.waited_s)
    counts = Counter(frame.reason for frame in result.rejected)
    return FramesJobResult(
        frames=[frame_body(frame, sign(frame.key)) for frame in result.frames],
        rejected=[RejectedBody(time_s=frame.time_s, reason=frame.reason) for frame in result.rejected],
        counts={"kept": len(result.frames), **dict(counts.most_common())},
        contact_sheet_url=sign(result.contact_sheet),
        inference_time_s=result.engine_s,
        queue_time_s=result.waited_s,
    )


def attempt_body(attempt: Attempt) -> AttemptBody:
    return AttemptBody(
        number=attempt.number,
        started_at=int(attempt.started_at),
        ended_at=int(attempt.ended_at),
        code=attempt.code,
        message=attempt.message,
    )


def image_reference(image: StoredImage, url: str) -> ImageReference:
    return ImageReference(
        url=url,
        seed=image.seed,
        width=image.width_px,
        height=image.height_px,
        content_type=image.content_type,
        bytes=image.num_bytes,
        sha256=image.sha256,
        is_nsfw=image.is_nsfw,
    )


def frame_body(frame: StoredFrame, url: str) -> FrameBody:
    return FrameBody(
        url=url,
        time_s=frame.time_s,
        width=frame.width_px,
        height=frame.height_px,
        sharpness=frame.sharpness,
        brightness=frame.brightness,
        scene=frame.scene,
        faces=[FaceBody(x=face.x, y=face.y, w=face.width, h=face.height, score=face.score) for face in frame.faces],
        coverage=frame.coverage,
        nsfw=frame.nsfw,
        is_nsfw=frame.is_nsfw,
        content_type=frame.content_type,
        bytes=frame.num_bytes,
        sha256=frame.sha256,
    )


def job_request(job: Job) -> dict[str, Any]:
    """The request in the public words, with every choice filled in."""
    request = job.request
    if isinstance(request, FramesRequest):
        return {
            "upload_id": request.upload_id,
            "max_frames": request.max_frames,
            "min_sharpness": request.min_sharpness,
            "faces": request.faces,
            "dedupe": request.dedupe,
            "output_format": request.output_format,
        }
    return {
        "model": request.model_id,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "n": request.num_images,
        "size": f"{request.width_px}x{request.height_px}",
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "seed": request.seed,
        "scheduler": request.scheduler,
        "loras": [{"name": lora.name, "scale": lora.scale} for lora in request.loras],
        "strength": None if request.image is None else request.strength,
        "output_format": request.output_format,
        "output_compression": request.output_compression,
        "moderation": job.moderation,
    }


def event_view(sign: Callable[[str], str], job: Job) -> dict[str, Any]:
    """A job as a webhook tells of it: what GET /v1/jobs/{id} answers, at the moment of sending."""
    return job_body_of(job, sign=sign).model_dump(mode="json")
