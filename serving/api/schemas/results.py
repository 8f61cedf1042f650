"""What came of a job, as clients see it: pictures, stills or a LoRA, with a URL for each file."""

from collections import Counter
from collections.abc import Callable

from pydantic import BaseModel, Field

from pipelines.request import FramesResult, StoredFrame
from serving.api.schemas.trainings import LoraJobResult, lora_result
from serving.jobs.job import AnyResult, JobResult, StoredImage


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


AnyResultBody = ImageJobResult | FramesJobResult | LoraJobResult


def result_body(result: AnyResult, sign: Callable[[str], str]) -> AnyResultBody:
    """What came of a job, with a URL for each file."""
    if isinstance(result, JobResult):
        images = [image_reference(image, sign(image.key)) for image in result.images]
        return ImageJobResult(images=images, inference_time_s=result.engine_s, queue_time_s=result.waited_s)
    if isinstance(result, FramesResult):
        return frames_result(result, sign)
    return lora_result(result, sign)


def frames_result(result: FramesResult, sign: Callable[[str], str]) -> FramesJobResult:
    counts = Counter(frame.reason for frame in result.rejected)
    return FramesJobResult(
        frames=[frame_body(frame, sign(frame.key)) for frame in result.frames],
        rejected=[RejectedBody(time_s=frame.time_s, reason=frame.reason) for frame in result.rejected],
        counts={"kept": len(result.frames), **dict(counts.most_common())},
        contact_sheet_url=sign(result.contact_sheet),
        inference_time_s=result.engine_s,
        queue_time_s=result.waited_s,
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
