"""Learns with FLUX.1: CLIP and T5 text encoders, a transformer over packed latents that predicts noise less picture.

B samples, S patches of the picture, L text tokens, C latent channels, H W latent size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pipelines.families.flux import MAX_TEXT_TOKENS, MAX_TEXT_TOKENS_DISTILLED
from training.learners.adapted import AdaptedLearner
from training.learners.base import Batch, Draws
from training.objectives import on_line, placed, shifted, squared_error


class FluxLearner(AdaptedLearner):
    patch = 2

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - those of AdaptedLearner
        super().__init__(*args, **options)
        config = self.pipeline.scheduler.config
        # A shift that depends on a picture's size belongs to making pictures; a fixed one to the model itself.
        self._shift = 1.0 if config.get("use_dynamic_shifting", False) else float(config.get("shift", 1.0))
        self._takes_guidance = bool(self.denoiser.config.guidance_embeds)
        self._positions: dict[tuple[int, int], Tensor] = {}

    @torch.no_grad()
    def cache_texts(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        length = MAX_TEXT_TOKENS if self._takes_guidance else MAX_TEXT_TOKENS_DISTILLED
        tokens_BLD, pooled_BD, _ = self.pipeline.encode_prompt(
            list(texts), None, device=self.device, max_sequence_length=length
        )
        if self.trains_texts:
            return {"tokens": tokens_BLD, "ids": self.token_ids(self.pipeline.tokenizer, texts)}
        return {"tokens": tokens_BLD, "pooled": pooled_BD}

    def errors(self, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor | None]:
        part = self.recipe.loss
        latents_BSC = self._packed(self.drawn(batch.latents, draws))
        noise_BSC = self._packed(draws.noise_BCHW + part.noise_offset * draws.offset_BC11)
        sigma_B = shifted(placed(draws.timestep_B, part.timesteps), self._shift)
        guidance_B = torch.full_like(sigma_B, part.guidance) if self._takes_guidance else None
        tokens_BLD = batch.texts["tokens"].to(self.dtype)
        with self.computing():
            (predicted_BSC,) = self.denoiser(
                hidden_states=on_line(latents_BSC, noise_BSC, sigma_B).to(self.dtype),
                timestep=sigma_B,
                guidance=guidance_B,
                pooled_projections=self._pooled(batch.texts).to(self.dtype),
                encoder_hidden_states=tokens_BLD,
                txt_ids=torch.zeros(tokens_BLD.shape[1], 3, device=self.device),
                img_ids=self._positions_of(*draws.noise_BCHW.shape[-2:]),
                return_dict=False,
            )
        return squared_error(predicted_BSC, noise_BSC - latents_BSC), None

    def _pooled(self, texts: Mapping[str, Tensor]) -> Tensor:
        pooled_BD: Tensor = (
            self.pipeline.text_encoder(texts["ids"]).pooler_output if self.trains_texts else texts["pooled"]
        )
        return pooled_BD

    def _packed(self, latents_BCHW: Tensor) -> Tensor:
        packed_BSC: Tensor = self.pipeline._pack_latents(latents_BCHW, *latents_BCHW.shape)
        return packed_BSC

    def _positions_of(self, height: int, width: int) -> Tensor:
        """[S, 3]: row and column of every patch; made on the host, so kept rather than sent in every step."""
        if (height, width) not in self._positions:
            self._positions[height, width] = self.pipeline._prepare_latent_image_ids(
                1, height // 2, width // 2, self.device, torch.float32
            )
        return self._positions[height, width]
