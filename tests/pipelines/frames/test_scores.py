"""Scores tell sharp from blurred and alike from different, whatever the size; photographs from scikit-image."""

import cv2
import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray

from pipelines.frames.scores import describe, luma, perceptual_hash, score, shrink

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def cup() -> Pixels:
    return skimage.data.coffee()


@pytest.fixture(scope="module")
def cat() -> Pixels:
    return skimage.data.chelsea()


def distance(left: Pixels, right: Pixels) -> float:
    return float(np.linalg.norm(describe(left) - describe(right)))


def bits_apart(left: Pixels, right: Pixels) -> int:
    return (int(perceptual_hash(luma(left)), 16) ^ int(perceptual_hash(luma(right)), 16)).bit_count()


def noisy(rgb: Pixels, *, spread: float) -> Pixels:
    noise = np.random.default_rng(3).normal(0, spread, rgb.shape)
    return np.clip(rgb + noise, 0, 255).astype(np.uint8)


def test_blur_lowers_sharpness_step_by_step(cup):
    sharpness = [score(luma(cv2.GaussianBlur(cup, (0, 0), sigma))).sharpness for sigma in (0.5, 1, 2, 4)]
    assert all(sharper > 1.5 * softer for sharper, softer in zip(sharpness, sharpness[1:], strict=False))


def test_motion_blur_leaves_less_than_a_quarter_of_the_sharpness(cup):
    streak = np.full((1, 9), 1 / 9, np.float32)
    moved = cv2.filter2D(cup, -1, streak)
    assert score(luma(moved)).sharpness < 0.25 * score(luma(cup)).sharpness


def test_videos_of_different_sizes_compare(cup):
    large = cv2.resize(cup, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    halfway = cv2.resize(cup, None, fx=1.5, fy=1.5, interpolation=cv2.INTER_CUBIC)
    values = [score(luma(picture)).sharpness for picture in (large, halfway)]
    assert values[0] == pytest.approx(values[1], rel=0.25)


def test_light_is_measured_in_luma():
    halves = np.zeros((100, 100, 3), np.uint8)
    halves[:, 50:] = 255
    scores = score(luma(halves))
    assert (scores.brightness, scores.contrast) == (127.5, 127.5)
    assert (scores.highlights, scores.dark_share, scores.bright_share) == (255, 0.5, 0.5)


def test_the_hash_survives_noise_and_size(cup):
    assert bits_apart(cup, noisy(cup, spread=8)) <= 4
    assert bits_apart(cup, shrink(cup, 160)) <= 4


def test_the_hash_tells_pictures_apart(cup, cat):
    assert bits_apart(cup, cat) > 16
    assert bits_apart(cup, np.ascontiguousarray(cup[:, ::-1])) > 16


def test_the_descriptor_has_length_one(cup):
    assert np.linalg.norm(describe(cup)) == pytest.approx(1, abs=1e-5)


def test_the_descriptor_hardly_sees_noise_size_and_brightness(cup):
    assert distance(cup, noisy(cup, spread=6)) < 0.08
    assert distance(cup, shrink(cup, 320)) < 0.05
    assert distance(cup, np.clip(cup.astype(int) + 12, 0, 255).astype(np.uint8)) < 0.12


def test_the_descriptor_sees_what_was_moved(cup, cat):
    part = cup.copy()
    part[100:220, 200:320] = cup[10:130, 10:130]
    assert distance(cup, part) > 0.12
    assert distance(cup, cat) > 0.6


def test_an_even_picture_can_be_described():
    grey = np.full((90, 160, 3), 128, np.uint8)
    assert np.isfinite(describe(grey)).all()
    assert len(perceptual_hash(luma(grey))) == 16
