"""Stable Diffusion 3 and 3.5: two CLIP text encoders and T5, a transformer over latents, guidance by two rows."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.families.flow import FlowFamily
from pipelines.sample import Sample, Scheduler, TextEmbedding

# R rows (two for a guided sample), B texts, L text tokens of CLIP and T5 one after the other, D text width


class StableDiffusion3(FlowFamily):
    text_encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")

    def embed(self, texts: Sequence[str | None]) -> list[TextEmbedding]:
        # Nothing said is an empty text here.
        prompts = [text or "" for text in texts]
        tokens_BLD, _, pooled_BD, _ = self.pipeline.encode_prompt(
            prompts, None, None, device=self.device, do_classifier_free_guidance=False
        )
        return [TextEmbedding(*pair) for pair in zip(tokens_BLD, pooled_BD, strict=True)]

    def noise_levels(self, scheduler: Scheduler, num_steps: int) -> NDArray[np.float64] | None:  # noqa: ARG002
        return None

    def predict(self, samples: Sequence[Sample], *, is_adapted: bool) -> torch.Tensor:
        latents = [sample.latents for sample in samples for _ in range(sample.num_rows)]
        texts = [text for sample in samples for text in sample.texts]
        rows = {
            "hidden_states": torch.cat(latents),
            "timestep": torch.stack([s.timestep for s in samples for _ in range(s.num_rows)]).to(self.device),
            "encoder_hidden_states": torch.stack([text.tokens_LD for text in texts]),
            "pooled_projections": torch.stack([text.pooled_D for text in texts if text.pooled_D is not None]),
        }
        return self.denoiser(rows, {}, num_rows=len(latents), is_adapted=is_adapted)
