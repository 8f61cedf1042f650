"""The formulas give what can be worked out by hand, and what diffusers' schedulers give."""

import pytest
import torch
from diffusers import DDPMScheduler

from training.objectives import (
    Prediction,
    min_snr_weight,
    noised,
    on_line,
    placed,
    shifted,
    squared_error,
    timesteps_at,
    wanted,
)


@pytest.mark.parametrize(
    ("kind", "weights"),
    # Of SNR 1/4, 1, 4 and 9 with gamma 5.
    [
        ("epsilon", [1.0, 1.0, 1.0, 5 / 9]),
        ("v_prediction", [0.2, 0.5, 0.8, 0.5]),
        ("sample", [0.25, 1.0, 4.0, 5.0]),
    ],
)
def test_min_snr_weights_are_those_of_the_paper(kind: Prediction, weights: list[float]) -> None:
    alphas = torch.tensor([0.2, 0.5, 0.8, 0.9], dtype=torch.float64)
    expected = torch.tensor(weights, dtype=torch.float64)
    torch.testing.assert_close(min_snr_weight(kind, alphas, 5.0), expected)


@pytest.mark.parametrize(
    ("kind", "ends"), [("epsilon", [1.0, 0.0]), ("v_prediction", [0.0, 0.0]), ("sample", [0.0, 5.0])]
)
def test_weights_are_finite_where_there_is_noise_alone(kind: Prediction, ends: list[float]) -> None:
    noise_alone, hardly_any = 0.0, 1 - 1e-7
    weights = min_snr_weight(kind, torch.tensor([noise_alone, hardly_any]), 5.0)
    torch.testing.assert_close(weights, torch.tensor(ends), rtol=0, atol=1e-5)


def test_noise_and_v_are_the_schedulers() -> None:
    scheduler = DDPMScheduler()
    latents, noise = torch.randn(2, 3, 4, 2, 2).unbind()
    timesteps = torch.tensor([0, 400, 999])
    alphas = scheduler.alphas_cumprod[timesteps]
    torch.testing.assert_close(noised(latents, noise, alphas), scheduler.add_noise(latents, noise, timesteps))
    velocity = scheduler.get_velocity(latents, noise, timesteps)
    torch.testing.assert_close(wanted("v_prediction", latents, noise, alphas), velocity)
    assert wanted("epsilon", latents, noise, alphas) is noise
    assert wanted("sample", latents, noise, alphas) is latents


def test_uniform_numbers_become_every_timestep_equally_often() -> None:
    levels = (torch.arange(8_000) + 0.5) / 8_000
    assert timesteps_at(placed(levels, "uniform"), 8).bincount().tolist() == [1_000] * 8
    assert timesteps_at(torch.tensor([1.0]), 8).tolist() == [7]


def test_logit_normal_levels_have_the_normal_quantiles_and_finite_ends() -> None:
    levels = placed(torch.tensor([0.5, 0.8413447, 0.1586553, 0.0, 1.0]), "logit_normal")
    torch.testing.assert_close(levels[:3], torch.sigmoid(torch.tensor([0.0, 1.0, -1.0])))
    assert ((levels > 0) & (levels < 1)).all()


def test_a_shift_moves_levels_towards_noise_and_keeps_the_ends() -> None:
    torch.testing.assert_close(shifted(torch.tensor([0.0, 0.5, 1.0]), 3.0), torch.tensor([0.0, 0.75, 1.0]))


def test_a_point_on_the_line_goes_from_picture_to_noise() -> None:
    picture, noise = torch.zeros(3, 2, 2), torch.ones(3, 2, 2)
    points = on_line(picture, noise, torch.tensor([0.0, 0.25, 1.0]))
    assert points[:, 0, 0].tolist() == [0.0, 0.25, 1.0]


def test_an_error_is_each_samples_own_mean() -> None:
    predicted, target = torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]]]), torch.zeros(2, 1, 2)
    assert squared_error(predicted, target).tolist() == [5.0, 0.0]
