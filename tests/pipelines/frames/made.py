"""Surveys and wishes made by hand, for tests that have no video."""

from typing import Any

import numpy as np

from pipelines.frames.candidates import Candidate, Survey
from pipelines.request import Face, FramesRequest, StoredFile
from pipelines.video.info import VideoInfo
from pipelines.video.still import Crop

INFO = VideoInfo("mov", "h264", 1_280, 720, 0, 10.0, 30.0, 300, "yuv420p", 8, "sdr", False, 1_000_000)
FACE = Face(x=100, y=50, width=80, height=90, score=0.8)
SIZE = 4  # of descriptors


def looks_like(number: int) -> tuple[float, ...]:
    """A descriptor; equal numbers look the same, any others do not."""
    vector = np.random.default_rng(number).standard_normal(SIZE)
    return tuple((vector / np.linalg.norm(vector)).tolist())


def candidate(index: int, *, looks: int | None = None, **changes: Any) -> Candidate:
    """A good still, the best of a moment of its own, that looks like no other."""
    facts: dict[str, Any] = {
        "sharpness": 100.0,
        "brightness": 120.0,
        "highlights": 220.0,
        "contrast": 50.0,
        "dark_share": 0.0,
        "bright_share": 0.0,
        "index": index,
        "time_s": index * 0.5,
        "scene": 0,
        "moment": index,
        "is_transition": False,
        "hash": "0f" * 8,
        "descriptor": looks_like(index if looks is None else looks),
        "faces": (),
        "thumbnail": f"thumbnail-{index:06d}.jpg",
    }
    return Candidate(**(facts | changes))


def survey_of(*candidates: Candidate) -> Survey:
    """Of stills of 640 by 360 px."""
    return Survey(INFO, Crop(), 640, 360, candidates, 0, True)


def wish(**changes: Any) -> FramesRequest:
    """A dozen stills, unless told otherwise."""
    facts: dict[str, Any] = {
        "upload_id": "upload",
        "video": StoredFile("key", "0" * 64),
        "duration_s": 10.0,
        "max_frames": 12,
    }
    return FramesRequest(**(facts | changes))
