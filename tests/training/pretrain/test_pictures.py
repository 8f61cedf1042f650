"""Pictures: the background is exact, the subject is where it was put, edges are clean."""

from pathlib import Path

import pytest
import torch

from training.pretrain.pictures import Cutouts, centred, compose, load_cutouts, psnr_db
from training.pretrain.recipe import PretrainRecipe
from training.pretrain.run import prepare_subjects


@pytest.fixture
def cutouts(recipe: PretrainRecipe, cache: Path) -> Cutouts:
    return load_cutouts(prepare_subjects(recipe, cache), 32)


def _compose(cutouts: Cutouts, left_px: int, top_px: int) -> torch.Tensor:
    colours_B3 = torch.tensor([[0, 0, 255]])
    left, top = torch.tensor([left_px]), torch.tensor([top_px])
    return compose(cutouts, torch.tensor([0]), colours_B3, canvas_px=64, lefts_px=left, tops_px=top)[0]


def test_a_centred_subject_covers_the_middle_and_leaves_the_corner(cutouts: Cutouts):
    picture_CHW = _compose(cutouts, centred(32, 64), centred(32, 64))
    assert picture_CHW[:, 32, 32].tolist() == pytest.approx([1, -1, -1], abs=0.02)
    assert picture_CHW[:, 0, 0].tolist() == [-1, -1, 1]


def test_a_subject_beyond_the_edge_is_cut_and_one_outside_leaves_no_trace(cutouts: Cutouts):
    assert _compose(cutouts, -16, 16)[0, 32, 0] > 0.9
    outside_CHW = _compose(cutouts, 64, 0)
    assert torch.equal(outside_CHW, _compose(cutouts, 0, -32))
    assert outside_CHW[2].min() == 1


def test_a_soft_edge_mixes_with_the_background_and_with_nothing_else(cutouts: Cutouts):
    # Red on blue: green never appears, and red + blue stays full wherever they mix.
    picture_CHW = _compose(cutouts, 16, 16)
    assert picture_CHW[1].max() < -0.95
    assert (picture_CHW[0] + picture_CHW[2]).abs().max() < 0.06


def test_psnr_is_that_of_the_definition():
    true_BCHW = torch.zeros(2, 3, 4, 4)
    made_BCHW = torch.stack([torch.full((3, 4, 4), 0.2), torch.full((3, 4, 4), 0.02)])
    assert psnr_db(made_BCHW, true_BCHW).tolist() == pytest.approx([20.0, 40.0], abs=1e-3)
