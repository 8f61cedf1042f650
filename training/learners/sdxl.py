"""Learns with Stable Diffusion XL: two CLIP text encoders, a UNet that is told the picture's size and crop."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from training.learners.base import Batch
from training.learners.unet import UNetLearner

# B samples, L text tokens, D text width


class StableDiffusionXLLearner(UNetLearner):
    @torch.no_grad()
    def cache_texts(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        # Served without words, this model is given zeros; so it learns without words from zeros.
        is_told = [bool(text) or not self.pipeline.config.force_zeros_for_empty_prompt for text in texts]
        told_B = torch.tensor(is_told, device=self.device).to(self.dtype)
        if self.trains_texts:
            first, second = self.pipeline.tokenizer, self.pipeline.tokenizer_2
            return {"ids": self.token_ids(first, texts), "ids_2": self.token_ids(second, texts), "told": told_B}
        tokens_BLD, _, pooled_BD, _ = self.pipeline.encode_prompt(
            list(texts), device=self.device, do_classifier_free_guidance=False
        )
        return {"tokens": tokens_BLD * told_B[:, None, None], "pooled": pooled_BD * told_B[:, None]}

    def shape_of(
        self, original_px: tuple[int, int], crop_px: tuple[int, int], target_px: tuple[int, int]
    ) -> Mapping[str, Tensor]:
        """Podell et al. 2023 (arXiv 2307.01952), section 2.2; height before width."""
        numbers = [*original_px[::-1], *crop_px[::-1], *target_px[::-1]]
        return {"time_ids": torch.tensor([numbers], dtype=torch.float32, device=self.device)}

    def conditions(self, batch: Batch) -> dict[str, Any]:
        tokens_BLD, pooled_BD = self._encoded(batch.texts)
        return {
            "encoder_hidden_states": tokens_BLD.to(self.dtype),
            "added_cond_kwargs": {"text_embeds": pooled_BD.to(self.dtype), "time_ids": batch.shape["time_ids"]},
        }

    def _encoded(self, texts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What encode_prompt() gives: the layer before the last of both, and what the second makes of the whole."""
        if not self.trains_texts:
            return texts["tokens"], texts["pooled"]
        first = self.pipeline.text_encoder(texts["ids"], output_hidden_states=True)
        second = self.pipeline.text_encoder_2(texts["ids_2"], output_hidden_states=True)
        tokens_BLD = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        told_B = texts["told"]
        return tokens_BLD * told_B[:, None, None], second[0] * told_B[:, None]
