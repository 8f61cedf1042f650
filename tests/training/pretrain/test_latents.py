"""Cached latents: every subject on every background, and a normalisation that changes nothing but the spread."""

from pathlib import Path

import pytest
import torch

from training.pretrain.autoencoder import build_autoencoder
from training.pretrain.latents import cache_latents, draw_scene, list_scenes, normalise_latents
from training.pretrain.recipe import PretrainRecipe
from training.pretrain.run import load_banks, prepare_subjects


def test_every_subject_has_every_background_and_some_placements(recipe: PretrainRecipe):
    scenes = list_scenes(recipe, 3)
    usual = [(scene.subjects[0], scene.background) for scene in scenes if scene.placement == "usual"]
    assert sorted(usual) == sorted((index, colour) for index in range(3) for colour in ("white", "sky blue"))
    assert sum(scene.placement in ("small", "left", "right") for scene in scenes) == 9
    assert all(scene.subjects[0] != scene.subjects[1] for scene in scenes if scene.placement == "pair")


def test_left_and_right_are_where_they_say(recipe: PretrainRecipe, cache: Path):
    banks = load_banks(recipe, prepare_subjects(recipe, cache))
    scenes = {scene.placement: scene for scene in list_scenes(recipe, 3) if scene.subjects[0] == 0}
    half = recipe.resolution_px // 2
    for placement, empty in (("left", slice(half, None)), ("right", slice(None, half))):
        picture_CHW = draw_scene(recipe, banks, scenes[placement])
        assert picture_CHW[:, :, empty].std(dim=(1, 2)).max() < 0.01
        assert picture_CHW.std() > 0.05


def test_normalising_gives_unit_latents_and_the_same_pictures(recipe: PretrainRecipe):
    torch.manual_seed(0)
    vae, pictures_BCHW = build_autoencoder(recipe).eval(), torch.rand(8, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = vae.encode(pictures_BCHW).latent_dist
        made_before_BCHW = vae.decode(before.mean).sample
        normalise_latents(vae, pictures_BCHW)
        after = vae.encode(pictures_BCHW).latent_dist
        made_after_BCHW = vae.decode(after.mean).sample
    assert after.mean.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0] * 4, abs=1e-3)
    assert after.mean.std(dim=(0, 2, 3)).tolist() == pytest.approx([1] * 4, abs=1e-3)
    assert torch.allclose(made_before_BCHW, made_after_BCHW, atol=1e-4)
    # The posterior's own noise scales with its latents.
    spread_C = before.mean.std(dim=(0, 2, 3))
    assert torch.allclose(after.std, before.std / spread_C[None, :, None, None], rtol=1e-3)


def test_latents_are_encoded_once_for_an_autoencoder(recipe: PretrainRecipe, cache: Path):
    banks = load_banks(recipe, prepare_subjects(recipe, cache))
    vae = build_autoencoder(recipe).eval()
    first = cache_latents(recipe, banks, vae, cache, vae_step=5)
    other = build_autoencoder(recipe).eval()
    again = cache_latents(recipe, banks, other, cache, vae_step=5)
    assert torch.equal(first.latents_NCHW, again.latents_NCHW)
    # Another autoencoder's latents would be noise to this one's decoder.
    assert not torch.equal(first.latents_NCHW, cache_latents(recipe, banks, other, cache, vae_step=6).latents_NCHW)
    assert first.latents_NCHW.shape == (len(first.scenes), 4, 8, 8)
    usual_white = [scene.placement == "usual" and scene.background == "white" for scene in first.scenes]
    share = first.weights_N[torch.tensor(usual_white)].sum() / first.weights_N.sum()
    assert share.item() == pytest.approx(recipe.latents.white_weight)
