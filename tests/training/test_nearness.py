"""The colour-structure distance: what a distance must be, and that it grows with what people would call unlike."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from skimage.color import rgb2lab
from skimage.metrics import structural_similarity

from training.nearness import _colour_distance as colour_distance
from training.nearness import _structure_distance as structure_distance
from training.nearness import distance, mean_distance


def scene(width_px: int = 256, height_px: int = 256) -> Image.Image:
    """Hills under a sky, with detail at every scale."""
    x, y = np.meshgrid(np.linspace(0, 1, width_px), np.linspace(0, 1, height_px))
    red = 0.5 + 0.5 * np.sin(9 * x + 4 * y)
    green = np.clip(y + 0.2 * np.sin(30 * x), 0, 1)
    blue = 0.5 + 0.5 * np.cos(14 * (x - 0.5) ** 2 + 9 * y)
    return Image.fromarray((255 * np.stack([red, green, blue], axis=-1)).astype(np.uint8))


def shuffled(picture: Image.Image, pieces: int) -> Image.Image:
    """The same pixels, in squares that lie elsewhere."""
    side_px = picture.width // pieces
    boxes = [
        (i * side_px, j * side_px, (i + 1) * side_px, (j + 1) * side_px) for i in range(pieces) for j in range(pieces)
    ]
    order = np.random.default_rng(0).permutation(len(boxes))
    other = picture.copy()
    for box, from_ in zip(boxes, order, strict=True):
        other.paste(picture.crop(boxes[from_]), box)
    return other


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (128, 128, 3), dtype=np.uint8))


def test_equal_pictures_are_at_no_distance() -> None:
    assert distance(scene(), scene()) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("other", [ImageOps.invert(scene()), scene().filter(ImageFilter.GaussianBlur(9)), noise(1)])
def test_it_is_the_same_both_ways_and_between_nought_and_one(other: Image.Image) -> None:
    assert 0 < distance(scene(), other) <= 1
    assert distance(scene(), other) == pytest.approx(distance(other, scene()), abs=1e-12)


def test_it_grows_with_blur() -> None:
    distances = [distance(scene(), scene().filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 4, 10, 30)]
    assert distances == sorted(distances)
    assert distances[-1] > distances[1] + 0.1


def test_it_grows_with_a_shift_of_colour() -> None:
    distances = [distance(scene(), ImageEnhance.Color(scene()).enhance(share)) for share in (1.0, 0.7, 0.3, 0.0)]
    assert distances == sorted(distances)
    assert distances[-1] > 0.1


def test_it_grows_when_the_same_pixels_lie_elsewhere() -> None:
    assert distance(scene(), shuffled(scene(), 2)) > 0.2
    assert distance(scene(), shuffled(scene(), 8)) > 0.2


def test_it_hardly_depends_on_the_size_of_a_picture() -> None:
    blurred = scene().filter(ImageFilter.GaussianBlur(12))
    small = distance(scene().resize((128, 128), Image.Resampling.BOX), blurred.resize((128, 128), Image.Resampling.BOX))
    assert distance(scene(), blurred) == pytest.approx(small, rel=0.03)
    assert distance(scene(), scene(512, 512)) < 0.02


def test_black_is_a_whole_distance_of_colour_from_white() -> None:
    black, white = (Image.new("RGB", (64, 64), name) for name in ("black", "white"))
    assert colour_distance(black, white) == pytest.approx(1, abs=1e-3)
    assert colour_distance(Image.new("RGB", (64, 64), "lime"), Image.new("RGB", (64, 64), "blue")) == 1


def test_colours_are_those_of_the_standard() -> None:
    first, second = noise(1).resize((32, 32)), noise(2).resize((32, 32))
    labs = [rgb2lab(np.asarray(picture)) for picture in (first, second)]
    expected = np.sqrt(np.square(labs[0] - labs[1]).sum(axis=-1).mean()) / 100
    assert colour_distance(first, second) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("other", [scene(64, 64).filter(ImageFilter.GaussianBlur(2)), noise(3).resize((64, 64))])
def test_similarity_is_that_of_the_paper(other: Image.Image) -> None:
    lumas = [np.asarray(picture.convert("L")) for picture in (scene(64, 64), other)]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = 1 - structural_similarity(*lumas, **options)
    assert structure_distance(scene(64, 64), other) == pytest.approx(expected, rel=1e-9)


def test_frames_are_cut_to_a_pictures_shape_around_their_middle() -> None:
    wide = Image.new("RGB", (512, 256), "magenta")
    wide.paste(scene(), (128, 0))
    assert mean_distance([scene()], [wide]) == pytest.approx(0, abs=1e-12)
    assert mean_distance([scene(128, 256)], [ImageOps.fit(scene(), (128, 256))]) > 0


def test_the_mean_is_over_all_pairs() -> None:
    pictures, frames = [scene(), noise(1)], [scene(), noise(2), noise(3)]
    expected = np.mean([distance(picture, frame) for picture in pictures for frame in frames])
    assert mean_distance(pictures, frames) == pytest.approx(expected)
