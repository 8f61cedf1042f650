"""Scenes: cuts where they are, at true times; fades and dissolves are told from things that move."""

from collections.abc import Iterable

import cv2
import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray

from pipelines.frames.scenes import SceneFinder, Verdict
from tests.clips import uneven_times

Pixels = NDArray[np.uint8]
HZ = 8.0


@pytest.fixture(scope="module")
def pictures() -> list[Pixels]:
    photographs = (skimage.data.coffee(), skimage.data.chelsea(), skimage.data.astronaut(), skimage.data.rocket())
    return [cv2.resize(picture, (320, 180), interpolation=cv2.INTER_AREA) for picture in photographs]


def verdicts(stills: Iterable[Pixels], times_s: Iterable[float] | None = None) -> list[Verdict]:
    finder, found, stills = SceneFinder(HZ), [], list(stills)
    for time_s, still in zip(times_s or [index / HZ for index in range(len(stills))], stills, strict=True):
        found += finder.look(time_s, still)
    return found + finder.finish()


def scenes(found: list[Verdict]) -> list[int]:
    return [verdict.scene for verdict in found]


def shaken(picture: Pixels, index: int) -> Pixels:
    """A hand-held camera."""
    return np.roll(picture, (index % 3, (index * 2) % 5), axis=(0, 1))


def mixed(left: Pixels, right: Pixels, share: float) -> Pixels:
    return cv2.addWeighted(left, 1 - share, right, share, 0)


def test_every_still_gets_a_verdict_in_order(pictures):
    for number in range(12):
        assert len(verdicts([pictures[0]] * number)) == number


def test_a_cut_starts_a_scene_at_its_first_still(pictures):
    stills = [shaken(picture, index) for picture in pictures for index in range(8)]
    assert scenes(verdicts(stills)) == [index // 8 for index in range(32)]


def test_cuts_near_either_end_are_found(pictures):
    stills = [pictures[0]] * 5 + [pictures[1]] * 12 + [pictures[2]]
    assert scenes(verdicts(stills)) == [0] * 5 + [1] * 12 + [2]


def test_a_scene_lasts_by_the_clock_and_not_by_the_number_of_stills(pictures):
    stills = [pictures[0]] * 8 + [pictures[1]] * 4 + [pictures[2]] * 8
    slow, fast = ([index * step_s for index in range(20)] for step_s in (0.25, 0.1))
    assert scenes(verdicts(stills, slow)) == [0] * 8 + [1] * 4 + [2] * 8
    assert max(scenes(verdicts(stills, fast))) == 1  # 0.4 s are a flash, not a scene


def test_uneven_times_are_kept(pictures):
    times_s = uneven_times(60)[::2]
    stills = [pictures[0]] * 15 + [pictures[1]] * 15
    assert scenes(verdicts(stills, times_s)) == [0] * 15 + [1] * 15


def test_a_shaking_camera_makes_no_scenes(pictures):
    found = verdicts(shaken(pictures[1], index) for index in range(40))
    assert found == [Verdict(0, False)] * 40


def test_a_pan_is_neither_a_scene_nor_a_fade(pictures):
    wide = np.hstack(pictures)
    found = verdicts(np.ascontiguousarray(wide[:, 12 * index : 12 * index + 320]) for index in range(60))
    assert found == [Verdict(0, False)] * 60


@pytest.mark.parametrize("num_mixed", [2, 4, 9])
def test_a_dissolve_is_no_still_of_either_scene(pictures, num_mixed):
    between = [mixed(pictures[0], pictures[1], (step + 1) / (num_mixed + 1)) for step in range(num_mixed)]
    found = verdicts([pictures[0]] * 10 + between + [pictures[1]] * 10)
    middle = found[11 : 9 + num_mixed]  # the outermost may pass: little of the other scene is in them
    assert all(verdict.is_transition for verdict in middle)
    assert not any(verdict.is_transition for verdict in found[:10] + found[-10:])
    assert (found[0].scene, found[-1].scene) == (0, 1)


def test_a_fade_to_black_and_back_parts_two_scenes(pictures):
    black = np.zeros_like(pictures[0])
    down = [mixed(pictures[2], black, step / 6) for step in range(1, 6)]
    up = [mixed(black, pictures[3], step / 6) for step in range(1, 6)]
    found = verdicts([pictures[2]] * 8 + down + [black] * 3 + up + [pictures[3]] * 8)
    assert [verdict.is_transition for verdict in found[9:12]] == [True] * 3
    assert [verdict.is_transition for verdict in found[17:20]] == [True] * 3
    assert found[0].scene == 0 < found[-1].scene
