"""Bars are found where every still has them, and nowhere else."""

import numpy as np
import pytest

from pipelines.video.bars import find_bars
from pipelines.video.decoding import open_video
from pipelines.video.still import Crop, Still
from tests import drawings
from tests.drawings import read_index
from tests.pipelines.video.conftest import Odd


def stills(*pictures: np.ndarray) -> list[Still]:
    return [Still(float(index), picture) for index, picture in enumerate(pictures)]


def noise(seed: int, *, highest: int = 255) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, highest, (90, 160, 3), dtype=np.uint8)


def with_bars(picture: np.ndarray, *, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> np.ndarray:
    framed = np.zeros_like(picture)
    framed[top : 90 - bottom, left : 160 - right] = picture[top : 90 - bottom, left : 160 - right]
    return framed


def test_a_letterbox_is_cut_off_survey_and_full_size_alike(odd: Odd) -> None:
    clip = odd("letterbox")
    with open_video(clip.path) as video:
        crop = find_bars(video.survey(8, 320))
        assert crop.top == pytest.approx(drawings.BLACK_BAR, abs=0.02)
        assert crop.bottom == pytest.approx(1 - drawings.BLACK_BAR, abs=0.02)
        assert (crop.left, crop.right) == (0, 1)
        video.crop = crop
        surveyed = list(video.survey(4, 64))
        [taken] = video.take([1.0])
    assert max(surveyed[0].rgb.shape) == 64
    assert read_index(taken.rgb) == 30
    assert taken.rgb[[0, -1]].mean(axis=(1, 2)).min() > 60, "a bar is left"
    assert drawings.corners(taken.rgb)["top left"] == pytest.approx(drawings.RED, abs=8)


def test_a_picture_between_pillars_is_found(odd: Odd) -> None:
    with open_video(odd("pillarbox").path) as video:
        crop = find_bars(video.survey(8, 320))
    assert (crop.left, crop.right) == (pytest.approx(0.25, abs=0.02), pytest.approx(0.75, abs=0.02))
    assert (crop.top, crop.bottom) == (0, 1)


def test_bars_all_round_are_found() -> None:
    framed = [with_bars(noise(seed), top=9, bottom=9, left=16, right=16) for seed in range(4)]
    crop = find_bars(stills(*framed))
    assert (crop.left, crop.top, crop.right, crop.bottom) == pytest.approx((0.1, 0.1, 0.9, 0.9), abs=0.02)


def test_a_dark_scene_hides_no_bars_and_makes_none(odd: Odd) -> None:
    black = np.zeros((90, 160, 3), np.uint8)
    framed = [with_bars(noise(seed), top=9, bottom=9) for seed in range(3)]
    assert find_bars(stills(black, *framed, black)).top == pytest.approx(0.11, abs=0.02)
    with open_video(odd("dark").path) as video:
        assert find_bars(video.survey(8, 320)).is_whole


def test_what_is_black_in_some_stills_only_is_picture() -> None:
    framed = [with_bars(noise(seed), top=9, bottom=9) for seed in range(4)]
    assert find_bars(stills(*framed, noise(9))).is_whole


def test_a_picture_that_fades_into_darkness_is_not_cut() -> None:
    fading = np.clip(np.arange(90) * 2 - 30, 0, 255)[:, None, None]
    assert find_bars(stills(*(np.broadcast_to(fading, (90, 160, 3)).astype(np.uint8) for _ in range(4)))).is_whole


def test_more_than_almost_half_is_not_taken_for_a_bar() -> None:
    assert find_bars(stills(*(with_bars(noise(seed), top=50) for seed in range(4)))).is_whole


def test_black_stills_or_too_few_leave_the_picture_whole() -> None:
    black = np.zeros((90, 160, 3), np.uint8)
    assert find_bars(stills(*[black] * 5)).is_whole
    assert find_bars(stills(with_bars(noise(1), top=9))).is_whole
    assert find_bars([]).is_whole


def test_a_crop_never_leaves_nothing() -> None:
    assert Crop(0.999, 0.999, 1.0, 1.0).apply(np.zeros((10, 10, 3), np.uint8)).shape == (1, 1, 3)
