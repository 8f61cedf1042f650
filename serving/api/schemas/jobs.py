"""A job as clients see it."""

from typing import Any, Literal

from pydantic import BaseModel

from serving.jobs.job import Job, Kind, Priority, Status, StoredImage


class JobErrorBody(BaseModel):
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


class ImageJobResult(BaseModel):
    images: list[ImageReference]
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
    started_at: int | None
    finished_at: int | None
    attempts: int
    priority: Priority
    model: str
    backend: str | None
    request: dict[str, Any]
    result: ImageJobResult | None
    error: JobErrorBody | None
    metadata: dict[str, str]
    queue_position: int | None


class JobList(BaseModel):
    object: Literal["list"] = "list"
    data: list[JobBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


def image_reference(image: StoredImage, url: str) -> ImageReference:
    return ImageReference(
        url=url,
        seed=image.seed,
        width=image.width_px,
        height=image.height_px,
        content_type=image.content_type,
        bytes=image.num_bytes,
        sha256=image.sha256,
    )


def job_request(job: Job) -> dict[str, Any]:
    """The request in the public words, with every choice filled in."""
    request = job.request
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
    }
