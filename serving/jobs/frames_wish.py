"""Stills of a video as a caller wants them, with every open choice resolved. Pure; knows no HTTP and no storage."""

import math
from dataclasses import dataclass

from pipelines.request import FacePreference, FramesRequest, OutputFormat, StoredFile
from serving.errors import BadInput
from serving.jobs.wish import Wish, check_extras, whole

DEFAULT_FRAMES = 24


@dataclass(frozen=True, slots=True)
class FramesWish(Wish):
    """Which stills are wanted, as the caller put it; None leaves the choice to us."""

    upload_id: str
    max_frames: int | None = None
    min_sharpness: float | None = None
    faces: FacePreference = "any"
    dedupe: bool = True
    output_format: OutputFormat = "jpeg"


def resolve_frames(wish: FramesWish, *, video: StoredFile, duration_s: float, most_frames: int) -> FramesRequest:
    """A request with nothing left open, or BadInput naming the field and what it may be."""
    check_extras(wish)
    if wish.min_sharpness is not None and not (math.isfinite(wish.min_sharpness) and wish.min_sharpness >= 0):
        raise BadInput("min_sharpness must be a number, 0 or more.", param="min_sharpness")
    wanted = min(DEFAULT_FRAMES, most_frames) if wish.max_frames is None else wish.max_frames
    return FramesRequest(
        upload_id=wish.upload_id,
        video=video,
        duration_s=duration_s,
        max_frames=whole("max_frames", wanted, 1, most_frames),
        min_sharpness=wish.min_sharpness,
        faces=wish.faces,
        dedupe=wish.dedupe,
        output_format=wish.output_format,
    )
