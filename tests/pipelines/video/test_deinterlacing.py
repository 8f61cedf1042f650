"""Frames of two fields come out without combs, at the moment of the first field."""

import av
import numpy as np
import pytest

from pipelines.video.decoding import open_video
from pipelines.video.deinterlacing import with_neighbours
from tests.pipelines.video.conftest import Odd


def combs(rgb: np.ndarray) -> float:
    """How much each line differs from both of its neighbours where these agree."""
    luma = rgb.mean(axis=2)
    inside = np.abs(2 * luma[1:-1] - luma[:-2] - luma[2:]) / 2
    return float(inside.mean())


def woven(path: str) -> list[np.ndarray]:
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_combs_are_gone_and_the_first_field_is_shown(odd: Odd) -> None:
    clip = odd("interlaced")
    with open_video(clip.path) as video:
        assert video.info.is_interlaced
        stills = list(video.survey(1_000, 320))
    assert [still.time_s for still in stills] == pytest.approx(clip.times_s)
    for index, (still, combed) in enumerate(zip(stills, woven(str(clip.path)), strict=True)):
        assert combs(still.rgb) < 0.4 * combs(combed)
        assert (
            np.abs(still.rgb.astype(int) - clip.draw(index)).mean()
            < 0.6 * np.abs(combed - clip.draw(index).astype(int)).mean()
        )


def test_taken_stills_are_those_of_the_survey(odd: Odd) -> None:
    with open_video(odd("interlaced").path) as video:
        surveyed = list(video.survey(5, 160))
        taken = list(video.take([still.time_s for still in surveyed]))
    assert [still.time_s for still in taken] == [still.time_s for still in surveyed]
    assert all(np.array_equal(one.rgb, other.rgb) for one, other in zip(taken, surveyed, strict=True))


def test_what_is_not_interlaced_is_left_alone(odd: Odd) -> None:
    with open_video(odd("plain").path) as video:
        [still] = video.take([0.0])
    assert np.abs(still.rgb.astype(int) - odd("plain").draw(0)).mean() < 3


def test_neighbours_at_the_ends_are_the_things_themselves() -> None:
    assert list(with_neighbours("abc")) == [("a", "a", "b"), ("a", "b", "c"), ("b", "c", "c")]
    assert list(with_neighbours("a")) == [("a", "a", "a")]
    assert list(with_neighbours("")) == []
