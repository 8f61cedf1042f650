"""Losses are those of diffusers' example scripts, with and without what was learned."""

from pathlib import Path

import pytest
import torch
from torch.distributions import Normal

from models.spec import Family
from tests.training.learners.formulas import flux_losses, unet_losses
from tests.training.tiny_learning import (
    TEXTS,
    load_plain,
    make_batch,
    save_adapter,
    shake,
    tiny_learner,
    tiny_recipe,
)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("snr_gamma", [None, 5.0])
def test_a_unet_has_the_loss_of_the_example_scripts(
    tiny_folders: dict[Family, Path], family: Family, prediction_type: str, snr_gamma: float | None
) -> None:
    recipe = tiny_recipe(loss={"snr_gamma": snr_gamma})
    learner = tiny_learner(tiny_folders[family], family, recipe, prediction_type=prediction_type)
    batch, draws = make_batch(learner)
    plain = load_plain(tiny_folders[family], family, prediction_type=prediction_type)
    expected = unet_losses(plain, batch, draws, TEXTS, snr_gamma=snr_gamma)
    torch.testing.assert_close(learner.losses(batch, draws).detach(), expected)
    unweighted = unet_losses(plain, batch, draws, TEXTS)
    torch.testing.assert_close(learner.plain_losses(batch, draws), unweighted)


def test_flux_has_the_loss_of_the_example_script(tiny_folders: dict[Family, Path]) -> None:
    learner = tiny_learner(tiny_folders["flux"], "flux")
    batch, draws = make_batch(learner)
    expected = flux_losses(load_plain(tiny_folders["flux"], "flux"), batch, draws, TEXTS, draws.timestep_B)
    torch.testing.assert_close(learner.losses(batch, draws).detach(), expected)


def test_flux_learns_where_logit_normal_noise_levels_lie_shifted_as_its_scheduler_shifts(
    tiny_folders: dict[Family, Path],
) -> None:
    learner = tiny_learner(tiny_folders["flux"], "flux", tiny_recipe(loss={"timesteps": "logit_normal"}), shift=3.0)
    batch, draws = make_batch(learner)
    level = torch.sigmoid(Normal(0.0, 1.0).icdf(draws.timestep_B))
    sigmas = 3 * level / (1 + 2 * level)
    expected = flux_losses(load_plain(tiny_folders["flux"], "flux"), batch, draws, TEXTS, sigmas)
    torch.testing.assert_close(learner.losses(batch, draws).detach(), expected)


def test_an_offset_moves_the_noise_and_the_target(tiny_folders: dict[Family, Path]) -> None:
    learner = tiny_learner(tiny_folders["sd"], "sd", tiny_recipe(loss={"noise_offset": 0.5}))
    batch, draws = make_batch(learner)
    moved = type(draws)(
        draws.posterior_BCHW,
        draws.noise_BCHW + 0.5 * draws.offset_BC11,
        draws.timestep_B,
        torch.full_like(draws.offset_BC11, torch.nan),
    )
    expected = unet_losses(load_plain(tiny_folders["sd"], "sd"), batch, moved, TEXTS)
    torch.testing.assert_close(learner.losses(batch, draws).detach(), expected)


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux"])
@pytest.mark.parametrize("dora", [False, True])
def test_what_was_learned_has_the_same_loss_once_plain_diffusers_has_loaded_it(
    tiny_folders: dict[Family, Path], tmp_path: Path, family: Family, dora: bool
) -> None:
    targets = ["attention", "feed_forward"] + (["convolutions"] if family != "flux" else [])
    recipe = tiny_recipe(lora={"targets": targets, "text_encoder": True, "dora": dora})
    learner = tiny_learner(tiny_folders[family], family, recipe)
    shake(learner)
    batch, draws = make_batch(learner)
    plain = load_plain(tiny_folders[family], family)
    formula = (
        (lambda: flux_losses(plain, batch, draws, TEXTS, draws.timestep_B))
        if family == "flux"
        else (lambda: unet_losses(plain, batch, draws, TEXTS))
    )
    base = formula()
    plain.load_lora_weights(str(save_adapter(learner, tmp_path / "adapter.safetensors")))
    learned = formula()
    assert ((learned - base).abs() > 1e-3 * base).all()
    torch.testing.assert_close(learner.losses(batch, draws).detach(), learned, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(learner.plain_losses(batch, draws, with_adapter=False), base)
