"""What tests of stills have in common: all frames at once, the slow way forced, pixels compared."""

import numpy as np
import pytest

from pipelines.video.decoding import Still, Video
from tests.clips import Clip

MANY_HZ = 1_000.0  # every frame


def tolerance_s(clip: Clip) -> float:
    return 6e-4 if clip.path.suffix in {".webm", ".mkv"} else 2e-5  # Matroska counts milliseconds


def in_full_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Video, "_read_timeline", lambda _: None)


def all_pixels_equal(some: list[Still], others: list[Still]) -> bool:
    pairs = zip(some, others, strict=True)
    return all(one.time_s == other.time_s and np.array_equal(one.rgb, other.rgb) for one, other in pairs)
