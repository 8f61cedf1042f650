"""Stable Diffusion 1.x, 2.x and all models of their classes: one CLIP text encoder, a UNet, guidance by two rows."""

from collections.abc import Sequence

import torch

from pipelines.families.unet import UNetFamily
from pipelines.sample import Sample, TextEmbedding


class StableDiffusion(UNetFamily):
    text_encoders = ("text_encoder",)

    def embed(self, texts: Sequence[str | None]) -> list[TextEmbedding]:
        # Nothing said is an empty text here.
        prompts = [text or "" for text in texts]
        tokens_BLD, _ = self.pipeline.encode_prompt(prompts, self.device, 1, False)
        return [TextEmbedding(tokens_LD) for tokens_LD in tokens_BLD]

    def added_conditions(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor] | None:
        return None
