"""Learns with Stable Diffusion 1.x, 2.x and all models of their classes: one CLIP text encoder, a UNet."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from training.learners.base import Batch
from training.learners.unet import UNetLearner
from training.recipe import RecipeError


class StableDiffusionLearner(UNetLearner):
    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - those of AdaptedLearner
        super().__init__(*args, **options)
        if self.trains_texts and getattr(self.pipeline.text_encoder.config, "use_attention_mask", False):
            raise RecipeError("lora.text_encoder: an encoder that is not to see its padding cannot be trained.")

    @torch.no_grad()
    def cache_texts(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        if self.trains_texts:
            return {"ids": self.token_ids(self.pipeline.tokenizer, texts)}
        tokens_BLD, _ = self.pipeline.encode_prompt(list(texts), self.device, 1, False)
        return {"tokens": tokens_BLD}

    def conditions(self, batch: Batch) -> dict[str, Any]:
        texts = batch.texts
        tokens_BLD = self.pipeline.text_encoder(texts["ids"])[0] if self.trains_texts else texts["tokens"]
        return {"encoder_hidden_states": tokens_BLD.to(self.dtype)}
