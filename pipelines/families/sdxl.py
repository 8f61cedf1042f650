"""Stable Diffusion XL and its distillations: two CLIP text encoders, a UNet that is told the picture's size."""

from collections.abc import Sequence

import torch

from models.loader import LoadedModel
from models.lora import LoraBank
from pipelines.families.unet import UNetFamily
from pipelines.sample import Order, Sample, TextEmbedding
from pipelines.speed import Compiler

# B texts, R rows, L text tokens, D text width


class StableDiffusionXL(UNetFamily):
    text_encoders = ("text_encoder", "text_encoder_2")

    def __init__(self, loaded: LoadedModel, bank: LoraBank, compiler: Compiler | None = None) -> None:
        super().__init__(loaded, bank, compiler)
        # Its decoder overflows in float16; the pipelines convert to and fro, which two threads cannot share.
        if self.dtype == torch.float16 and self.pipeline.vae.config.force_upcast:
            self.pipeline.vae.to(torch.float32)

    def embed(self, texts: Sequence[str | None]) -> list[TextEmbedding]:
        prompts = [text or "" for text in texts]
        tokens_BLD, _, pooled_BD, _ = self.pipeline.encode_prompt(
            prompts, device=self.device, do_classifier_free_guidance=False
        )
        embeddings = [TextEmbedding(*pair) for pair in zip(tokens_BLD, pooled_BD, strict=True)]
        # The base model was trained with zeros for "nothing said", which an empty text is not.
        if self.pipeline.config.force_zeros_for_empty_prompt:
            zeros = TextEmbedding(torch.zeros_like(tokens_BLD[0]), torch.zeros_like(pooled_BD[0]))
            return [zeros if text is None else it for text, it in zip(texts, embeddings, strict=True)]
        return embeddings

    def start(self, order: Order) -> Sample:
        sample = super().start(order)
        size = (order.request.height_px, order.request.width_px)
        # Original size, crop corner, target size: as if it had been a whole picture of the size asked for.
        time_ids = torch.tensor([[*size, 0, 0, *size]], dtype=self.dtype)
        sample.conditioning["time_ids"] = time_ids.to(self.device)
        return sample

    def added_conditions(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor] | None:
        pooled = [text.pooled_D for sample in samples for text in sample.texts if text.pooled_D is not None]
        time_ids = [sample.conditioning["time_ids"] for sample in samples for _ in range(sample.num_rows)]
        return {"text_embeds": torch.stack(pooled), "time_ids": torch.cat(time_ids)}
