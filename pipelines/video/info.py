"""What is known of a video file, what is allowed, and what can be wrong with it. Loads no decoder."""

from dataclasses import dataclass
from typing import Literal

Transfer = Literal["sdr", "pq", "hlg"]
Fault = Literal["not_a_video", "unsupported_video", "truncated", "damaged", "too_long", "too_many_pixels"]


class VideoError(Exception):
    """The file is at fault; the message is for the person who sent it."""

    def __init__(self, code: Fault, message: str) -> None:
        super().__init__(message)
        self.code: Fault = code


@dataclass(frozen=True, slots=True)
class VideoLimits:
    """What is taken."""

    max_s: float
    max_px: int  # width times height


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """One video stream as a player shows it."""

    container: str  # "mov" (MP4 too), "matroska" (WebM too), "avi", "mpegts" …
    codec: str
    width_px: int  # of the upright picture with square pixels
    height_px: int
    rotation: int  # clockwise degrees that a player applies: 0, 90, 180 or 270
    duration_s: float
    fps: float  # average; 0.0 where nobody knows
    num_frames: int | None  # as the header says, which may be one too many
    pixel_format: str
    bit_depth: int
    transfer: Transfer
    is_interlaced: bool
    size_bytes: int
