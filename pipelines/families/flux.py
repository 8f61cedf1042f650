"""FLUX.1: CLIP and T5 text encoders, a transformer over packed latents, guidance as an input, not a second row."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from models.loader import LoadedModel
from models.lora import LoraBank
from pipelines.families.flow import PackedFlowFamily
from pipelines.request import GenerationRequest
from pipelines.sample import Sample, Scheduler, TextEmbedding
from pipelines.speed import Compiler

# R rows (here one for each sample), S patches of the picture, L text tokens; a packed latent is [1, S, 4 C].

# What [dev] and [schnell] were trained with; longer prompts are cut by the tokenizer.
MAX_TEXT_TOKENS = 512
MAX_TEXT_TOKENS_DISTILLED = 256


class Flux(PackedFlowFamily):
    text_encoders = ("text_encoder", "text_encoder_2")

    def __init__(self, loaded: LoadedModel, bank: LoraBank, compiler: Compiler | None = None) -> None:
        super().__init__(loaded, bank, compiler)
        self.takes_guidance = bool(self.pipeline.transformer.config.guidance_embeds)

    def is_guided(self, request: GenerationRequest) -> bool:
        return False  # the scale is an input of the transformer

    def embed(self, texts: Sequence[str | None]) -> list[TextEmbedding]:
        tokens_BLD, pooled_BD, _ = self.pipeline.encode_prompt(
            [text or "" for text in texts],
            None,
            device=self.device,
            max_sequence_length=MAX_TEXT_TOKENS if self.takes_guidance else MAX_TEXT_TOKENS_DISTILLED,
        )
        return [TextEmbedding(*pair) for pair in zip(tokens_BLD, pooled_BD, strict=True)]

    def noise_levels(self, scheduler: Scheduler, num_steps: int) -> NDArray[np.float64] | None:
        return None if scheduler.config.get("use_flow_sigmas", False) else super().noise_levels(scheduler, num_steps)

    def predict(self, samples: Sequence[Sample], *, is_adapted: bool) -> torch.Tensor:
        # In the precision of the latents before the division, as the pipeline does it.
        timesteps = torch.stack([sample.timestep for sample in samples]).to(self.device, self.dtype)
        scales = torch.tensor([s.order.request.guidance_scale for s in samples], device=self.device)
        texts = [sample.order.prompt for sample in samples]
        tokens_RLD = torch.stack([text.tokens_LD for text in texts])
        rows = {
            "hidden_states": torch.cat([sample.latents for sample in samples]),
            "timestep": timesteps / 1000,
            "guidance": scales if self.takes_guidance else None,
            "pooled_projections": torch.stack([text.pooled_D for text in texts if text.pooled_D is not None]),
            "encoder_hidden_states": tokens_RLD,
        }
        shared = {
            "txt_ids": torch.zeros(tokens_RLD.shape[1], 3, device=self.device, dtype=self.dtype),
            "img_ids": self._patch_positions(samples[0].order.request),
        }
        return self.denoiser(rows, shared, num_rows=len(samples), is_adapted=is_adapted)

    def _patch_positions(self, request: GenerationRequest) -> torch.Tensor:
        """[S, 3]: the row and the column of every patch."""
        rows, columns = self.rows_and_columns(request)
        positions: torch.Tensor = self.pipeline._prepare_latent_image_ids(1, rows, columns, self.device, self.dtype)
        return positions
