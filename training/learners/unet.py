"""What the learners around a UNet share: noise at whole timesteps, predicted as noise, as v or as the picture.

B samples, C latent channels, H W latent size, T timesteps.
"""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from training.learners.adapted import AdaptedLearner
from training.learners.base import Batch, Draws
from training.objectives import Prediction, min_snr_weight, noised, placed, squared_error, timesteps_at, wanted
from training.recipe import RecipeError


class UNetLearner(AdaptedLearner):
    """A denoiser that takes latents, a timestep and text tokens."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - those of AdaptedLearner
        super().__init__(*args, **options)
        scheduler = self.pipeline.scheduler
        if not hasattr(scheduler, "alphas_cumprod"):
            raise RecipeError(f"A model whose scheduler is a {type(scheduler).__name__} cannot be trained.")
        self._prediction: Prediction = scheduler.config.get("prediction_type", "epsilon")
        self._alphas_cumprod_T = scheduler.alphas_cumprod.to(self.device, torch.float32)

    @abstractmethod
    def conditions(self, batch: Batch) -> dict[str, Any]:
        """What the UNet is told beside latents and timesteps, by the names of its arguments."""

    def errors(self, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor | None]:
        part = self.recipe.loss
        latents_BCHW = self.drawn(batch.latents, draws)
        noise_BCHW = draws.noise_BCHW
        if part.noise_offset:
            noise_BCHW = noise_BCHW + part.noise_offset * draws.offset_BC11
        timesteps_B = timesteps_at(placed(draws.timestep_B, part.timesteps), len(self._alphas_cumprod_T))
        alphas_B = self._alphas_cumprod_T[timesteps_B]
        noisy_BCHW = noised(latents_BCHW, noise_BCHW, alphas_B)
        with self.computing():
            conditions = self.conditions(batch)
            (predicted_BCHW,) = self.denoiser(noisy_BCHW.to(self.dtype), timesteps_B, **conditions, return_dict=False)
        target_BCHW = wanted(self._prediction, latents_BCHW, noise_BCHW, alphas_B)
        errors_B = squared_error(predicted_BCHW, target_BCHW)
        if part.snr_gamma is None:
            return errors_B, None
        return errors_B, min_snr_weight(self._prediction, alphas_B, part.snr_gamma)
