"""The losses as diffusers' example scripts write them (train_dreambooth_lora*.py), on a plain pipeline.

Written apart from training.objectives and training.learners, so that the two can check each other.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from training.learners.base import Batch, Draws

NUM_TIMESTEPS = 1000


@torch.no_grad()
def unet_losses(
    pipeline: Any, batch: Batch, draws: Draws, texts: Sequence[str], *, snr_gamma: float | None = None
) -> torch.Tensor:
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    latents = batch.latents.mean_BCHW + batch.latents.std_BCHW * draws.posterior_BCHW
    timesteps = (draws.timestep_B * NUM_TIMESTEPS).long()
    noisy = scheduler.add_noise(latents, draws.noise_BCHW, timesteps)
    if hasattr(pipeline, "text_encoder_2"):
        rows = [pipeline.encode_prompt(text, device="cpu", do_classifier_free_guidance=True) for text in texts]
        # The negative half of nothing is what an untold sample is given.
        tokens = torch.cat([row[0] if text else row[1] for row, text in zip(rows, texts, strict=True)])
        pooled = torch.cat([row[2] if text else row[3] for row, text in zip(rows, texts, strict=True)])
        added = {"text_embeds": pooled, "time_ids": batch.shape["time_ids"]}
    else:
        tokens = torch.cat([pipeline.encode_prompt(text, "cpu", 1, False)[0] for text in texts])
        added = None
    predicted = pipeline.unet(noisy, timesteps, tokens, added_cond_kwargs=added).sample
    prediction_type = scheduler.config.prediction_type
    target = {
        "epsilon": lambda: draws.noise_BCHW,
        "v_prediction": lambda: scheduler.get_velocity(latents, draws.noise_BCHW, timesteps),
        "sample": lambda: latents,
    }[prediction_type]()
    loss = F.mse_loss(predicted, target, reduction="none").mean(dim=(1, 2, 3))
    if snr_gamma is None:
        return loss
    snr = compute_snr(scheduler, timesteps)
    weight = torch.stack([snr, snr_gamma * torch.ones_like(timesteps)], dim=1).min(dim=1)[0]
    return loss * weight / {"epsilon": snr, "v_prediction": snr + 1, "sample": 1.0}[prediction_type]


@torch.no_grad()
def flux_losses(pipeline: Any, batch: Batch, draws: Draws, texts: Sequence[str], sigmas: torch.Tensor) -> torch.Tensor:
    latents = batch.latents.mean_BCHW + batch.latents.std_BCHW * draws.posterior_BCHW
    noise, (size, _, height, width) = draws.noise_BCHW, latents.shape
    sigmas = sigmas.view(-1, 1, 1, 1)
    noisy = (1.0 - sigmas) * latents + sigmas * noise
    tokens, pooled, text_ids = pipeline.encode_prompt(list(texts), None, max_sequence_length=512)
    predicted = pipeline.transformer(
        hidden_states=pipeline._pack_latents(noisy, size, latents.shape[1], height, width),
        timestep=sigmas.flatten() * 1000 / 1000,
        guidance=torch.ones(size),
        pooled_projections=pooled,
        encoder_hidden_states=tokens,
        txt_ids=text_ids,
        img_ids=pipeline._prepare_latent_image_ids(size, height // 2, width // 2, "cpu", torch.float32),
    ).sample
    scale = pipeline.vae_scale_factor
    predicted = pipeline._unpack_latents(predicted, height * scale, width * scale, scale)
    return ((predicted - (noise - latents)) ** 2).reshape(size, -1).mean(1)
