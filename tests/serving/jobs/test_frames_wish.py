"""Which stills are wanted: open choices filled in, and every limit refused by the name of its field."""

import math
from typing import Any

import pytest

from pipelines.request import FramesRequest, StoredFile
from serving.errors import BadInput
from serving.jobs.frames_wish import FramesWish, resolve_frames

VIDEO = StoredFile("tenants/alice/uploads/-/upl_1/file", "ab" * 32)


def resolve(most_frames: int = 500, **wish: Any) -> FramesRequest:
    return resolve_frames(FramesWish("upl_1", **wish), video=VIDEO, duration_s=12.5, most_frames=most_frames)


def test_what_is_left_open_is_filled_in() -> None:
    request = resolve()
    assert (request.upload_id, request.video, request.duration_s) == ("upl_1", VIDEO, 12.5)
    assert (request.max_frames, request.min_sharpness, request.faces, request.dedupe) == (24, None, "any", True)
    assert request.output_format == "jpeg"


def test_the_default_stays_below_a_servers_own_limit() -> None:
    assert resolve(most_frames=10).max_frames == 10


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"max_frames": 0}, "max_frames"),
        ({"max_frames": 501}, "max_frames"),
        ({"min_sharpness": -1.0}, "min_sharpness"),
        ({"min_sharpness": math.nan}, "min_sharpness"),
        ({"min_sharpness": math.inf}, "min_sharpness"),
        ({"user": "a\x00b"}, "user"),
        ({"metadata": {"no spaces here": "x"}}, "metadata"),
    ],
)
def test_what_cannot_be_is_refused_by_name(wish: dict[str, Any], param: str) -> None:
    with pytest.raises(BadInput) as caught:
        resolve(**wish)
    assert caught.value.param == param
