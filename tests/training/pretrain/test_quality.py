"""The measure itself: it recognises what is the same, tells apart what differs, and does not care where it sits."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from training.pretrain.quality import align, border_colour, name_colour, ranks_of_truth, share_within

PALETTE = {"white": (255, 255, 255), "red": (214, 48, 49), "sky blue": (120, 195, 245)}


def _disc(colour: str, box: tuple[int, int, int, int], background: str = "white") -> np.ndarray:
    image = Image.new("RGB", (128, 128), background)
    ImageDraw.Draw(image).ellipse(box, fill=colour)
    return np.asarray(image)


def test_a_subject_is_the_same_wherever_and_however_big_it_is():
    small, big = _disc("red", (10, 10, 60, 60)), _disc("red", (20, 20, 120, 120))
    assert np.abs(align(small) - align(big)).mean() < 0.02


def test_alignment_keeps_the_proportions():
    assert np.abs(align(_disc("red", (10, 50, 110, 70))) - align(_disc("red", (10, 10, 110, 110)))).mean() > 0.2


def test_specks_do_not_stretch_the_bounding_box():
    clean = _disc("red", (30, 30, 90, 90))
    specked = clean.copy()
    specked[0, 0] = specked[127, 127] = specked[3, 100] = 0
    assert np.array_equal(align(clean), align(specked))


def test_an_empty_picture_aligns_to_white():
    assert align(np.full((128, 128, 3), 40, dtype=np.uint8)).min() == 1.0


def test_ranks_count_the_nearer_strangers():
    box = (10, 10, 110, 110)
    true = [_disc(colour, box) for colour in ("red", "blue", "green")]
    assert ranks_of_truth(true, true) == [0, 0, 0]
    assert ranks_of_truth([true[1], true[1], _disc("darkgreen", box)], true) == [2, 0, 0]


def test_shares_are_of_all_pictures():
    assert share_within([0, 0, 3, 9], 1) == 0.5
    assert share_within([0, 0, 3, 9], 5) == 0.75


def test_the_border_colour_ignores_a_subject_that_touches_the_edge():
    picture = _disc("black", (0, 40, 127, 90), background="rgb(120,195,245)")
    assert border_colour(picture).tolist() == pytest.approx([120, 195, 245])
    assert name_colour(border_colour(picture), PALETTE) == "sky blue"


def test_a_colour_far_from_all_names_has_none():
    assert name_colour(np.array([0.0, 80.0, 0.0]), PALETTE) is None
