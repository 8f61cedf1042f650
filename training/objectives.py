"""What a denoiser is asked to predict and what an error counts: formulas alone, on tensors, with their sources.

B samples; … the rest of a latent's shape. Nothing here looks at a number on the host, so nothing waits for a GPU.
"""

from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample"]
Timesteps = Literal["uniform", "logit_normal"]

MARGIN = 1e-6  # keeps the normal quantile of a uniform number finite


def placed(uniform_B: Tensor, kind: Timesteps) -> Tensor:
    """Noise levels in (0, 1) from uniform numbers; logit-normal: Esser et al. 2024 (arXiv 2403.03206), eq. 19."""
    if kind == "uniform":
        return uniform_B
    return torch.sigmoid(torch.special.ndtri(uniform_B.clamp(MARGIN, 1 - MARGIN)))


def timesteps_at(level_B: Tensor, num_timesteps: int) -> Tensor:
    """0 … num_timesteps - 1, each for an equal share of the levels."""
    return (level_B * num_timesteps).long().clamp(0, num_timesteps - 1)


def noised(latents: Tensor, noise: Tensor, alphas_cumprod_B: Tensor) -> Tensor:
    """Latents under noise: Ho et al. 2020 (arXiv 2006.11239), eq. 4."""
    signal, spread = _shares(alphas_cumprod_B, latents)
    return signal * latents + spread * noise


def wanted(kind: Prediction, latents: Tensor, noise: Tensor, alphas_cumprod_B: Tensor) -> Tensor:
    """What is to be predicted; v: Salimans and Ho 2022 (arXiv 2202.00512), appendix D."""
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return latents
    signal, spread = _shares(alphas_cumprod_B, latents)
    return signal * noise - spread * latents


def min_snr_weight(kind: Prediction, alphas_cumprod_B: Tensor, gamma: float) -> Tensor:
    """What an error counts at each noise level: Hang et al. 2023 (arXiv 2303.09556), section 3.4.

    min(SNR, gamma) for the error in the picture; the errors in noise and in v are SNR and SNR + 1 times that.
    """
    snr_B = alphas_cumprod_B / (1 - alphas_cumprod_B)
    if kind == "sample":
        return snr_B.clamp(max=gamma)
    if kind == "epsilon":
        # Not min(SNR, gamma) / SNR: where nothing of the picture is left that would be 0 / 0.
        return (gamma / snr_B).clamp(max=1)
    return snr_B.clamp(max=gamma) / (snr_B + 1)


def shifted(sigma_B: Tensor, shift: float) -> Tensor:
    """Noise levels moved towards noise: Esser et al. 2024 (arXiv 2403.03206), eq. 23, as the scheduler applies it."""
    return shift * sigma_B / (1 + (shift - 1) * sigma_B)


def on_line(latents: Tensor, noise: Tensor, sigma_B: Tensor) -> Tensor:
    """The point between picture (0) and noise (1): Lipman et al. 2022 (arXiv 2210.02747), section 4.1."""
    sigma = _beside(sigma_B, latents)
    return (1 - sigma) * latents + sigma * noise


def squared_error(predicted: Tensor, target: Tensor) -> Tensor:
    """[B]: its mean over each sample, in float32."""
    return (predicted.float() - target.float()).square().flatten(1).mean(dim=1)


def _shares(alphas_cumprod_B: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    alphas = _beside(alphas_cumprod_B, latents)
    return alphas.sqrt(), (1 - alphas).sqrt()


def _beside(values_B: Tensor, latents: Tensor) -> Tensor:
    return values_B.view(-1, *(1 for _ in latents.shape[1:]))
