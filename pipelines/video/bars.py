"""Finds the black bars round a picture that was put into a frame of another shape."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pipelines.video.still import Crop, Pixels, Still

__all__ = ["Crop", "find_bars"]

MIN_STILLS = 3
BRIGHT = 48  # of 255; a still with nothing like it cannot tell a bar from the night
MAX_BAR_LEVEL = 16  # of a bar's lines, but for a fiftieth of each: coding leaves specks beside the picture
MIN_PICTURE_LEVEL = 30  # of half the line beside a bar: a picture ends there, it does not fade into darkness
MAX_BAR = 0.45  # of a side; more is a picture with a lot of black in it
MIN_LINES = 2


def find_bars(stills: Iterable[Still]) -> Crop:
    """What is left of these stills without the bars that all of them have; the whole picture when in doubt.

    Looks at the brightest that was ever seen in each place: a scene may be dark anywhere, but only a bar always is.
    """
    num_bright, brightest = 0, None
    for still in stills:
        level: Pixels = still.rgb.max(axis=2)
        num_bright += bool(np.percentile(level, 98) >= BRIGHT)
        brightest = level if brightest is None else np.maximum(brightest, level)
    if brightest is None or num_bright < MIN_STILLS:
        return Crop()
    top, bottom = _bar(brightest), _bar(brightest[::-1])
    left, right = _bar(brightest.T), _bar(brightest.T[::-1])
    return Crop(left, top, 1 - right, 1 - bottom)


def _bar(level: NDArray[np.uint8]) -> float:
    """How far a bar reaches down from the top, as a share of the height."""
    is_black = np.percentile(level, 98, axis=1) <= MAX_BAR_LEVEL
    num_lines = int(np.argmin(is_black))
    if is_black.all() or not MIN_LINES <= num_lines <= MAX_BAR * len(level):
        return 0.0
    # The first line after the black ones is half bar, half picture.
    is_picture = np.median(level[num_lines + 1]) >= MIN_PICTURE_LEVEL
    return (num_lines + 1) / len(level) if is_picture else 0.0
