"""A job as clients see it."""

from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, Field

from pipelines.request import FramesRequest, TrainingRequest
from serving.api.schemas.results import AnyResultBody, result_body
from serving.api.schemas.trainings import training_request
from serving.jobs.job import Attempt, Job, Kind, Priority, Status


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


class JobBody(BaseModel):
    id: str
    object: Literal["job"] = "job"
    kind: Kind
    status: Status
    progress: int
    step: int
    steps: int
    stage: str | None = Field(description="Of a training: frames, filter, caption, cache, train, validate or publish.")
    loss: float | None = Field(description="Of a training, lately.")
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
    result: AnyResultBody | None
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
        stage=job.stage,
        loss=job.loss,
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


def attempt_body(attempt: Attempt) -> AttemptBody:
    return AttemptBody(
        number=attempt.number,
        started_at=int(attempt.started_at),
        ended_at=int(attempt.ended_at),
        code=attempt.code,
        message=attempt.message,
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
    if isinstance(request, TrainingRequest):
        return training_request(request)
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
    eta_s = None if job.is_final else job.told_eta_s
    return job_body_of(job, sign=sign, eta_s=eta_s).model_dump(mode="json")
