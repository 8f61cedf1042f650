"""One picture of a video, and the part of a picture that is kept."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Still:
    """One frame as a player shows it."""

    time_s: float  # from the first shown frame
    rgb: Pixels  # height x width x 3, BT.709 primaries, sRGB curve


@dataclass(frozen=True, slots=True)
class Crop:
    """The part of a picture that is kept: edges as shares of its width and height, so that it fits any size."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0

    @property
    def is_whole(self) -> bool:
        return self == Crop()

    def apply(self, rgb: Pixels) -> Pixels:
        """The part, never less than one pixel."""
        height_px, width_px, _ = rgb.shape
        left_px, right_px = _inner(self.left, self.right, width_px)
        top_px, bottom_px = _inner(self.top, self.bottom, height_px)
        return np.ascontiguousarray(rgb[top_px:bottom_px, left_px:right_px])

    def size_px(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Width and height of the part of a picture of this size."""
        left_px, right_px = _inner(self.left, self.right, width_px)
        top_px, bottom_px = _inner(self.top, self.bottom, height_px)
        return right_px - left_px, bottom_px - top_px


def _inner(start: float, end: float, length_px: int) -> tuple[int, int]:
    start_px = min(round(start * length_px), length_px - 1)
    return start_px, max(round(end * length_px), start_px + 1)
