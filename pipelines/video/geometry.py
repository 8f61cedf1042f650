"""From stored pictures to shown ones: pixels that are not square, pictures that lie on their side or are mirrored."""

import math
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from av.sidedata.sidedata import Type

from pipelines.video.still import Pixels

MAX_PIXEL_ASPECT = 5  # beyond it, either way, the number is a mistake


@dataclass(frozen=True, slots=True)
class Turn:
    """What a player does with a stored picture: flip it left to right or not, then turn it clockwise."""

    quarters: int = 0
    is_mirrored: bool = False

    @property
    def degrees(self) -> int:
        return 90 * self.quarters

    def size_px(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Width and height once turned."""
        return (height_px, width_px) if self.quarters % 2 else (width_px, height_px)

    def apply(self, rgb: Pixels) -> Pixels:
        """The upright picture; the same array where nothing is to be done."""
        if self.is_mirrored:
            rgb = rgb[:, ::-1]
        return np.ascontiguousarray(np.rot90(rgb, -self.quarters))


def turn_of(frame: Any) -> Turn:  # noqa: ANN401 - av.VideoFrame
    """From the frame's display matrix, to the nearest right angle.

    The matrix (ISO/IEC 14496-12, 8.3.2) maps a stored point: x' = a·x + c·y, y' = b·x + d·y, y pointing down.
    """
    if Type.DISPLAYMATRIX not in frame.side_data:
        return Turn()
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(frame.side_data[Type.DISPLAYMATRIX])[:36])
    is_mirrored = a * d - b * c < 0
    if is_mirrored:
        a, b = -a, -b
    return Turn(round(math.degrees(math.atan2(b, a)) / 90) % 4, is_mirrored)


def shown_size(width_px: int, height_px: int, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """Width and height with square pixels: the side that is too short grows, so that no detail is lost."""
    aspect = float(pixel_aspect or 1)
    if not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
        return width_px, height_px
    return (round(width_px * aspect), height_px) if aspect > 1 else (width_px, round(height_px / aspect))


def fitted(width_px: int, height_px: int, side_px: int) -> tuple[int, int]:
    """The size with the longer side at most `side_px`, in the same shape."""
    scale = min(1.0, side_px / max(width_px, height_px))
    return max(1, round(width_px * scale)), max(1, round(height_px * scale))
