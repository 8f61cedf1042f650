"""Z-Image: a language model reads the text, a transformer takes texts of any length, guidance by two rows."""

from collections.abc import Sequence

import torch

from models.loader import LoadedModel
from models.lora import LoraBank
from pipelines.families.flow import FlowFamily
from pipelines.request import GenerationRequest
from pipelines.sample import Order, Sample, TextEmbedding
from pipelines.speed import Compiler

# R rows (two for a guided sample), C latent channels, F frames (one), H W latent size, L text tokens, D text width


class ZImage(FlowFamily):
    """Rows of one batch may differ in the length of their texts: the transformer fills up and masks by itself."""

    text_encoders = ()  # nobody adapts the language model

    def __init__(self, loaded: LoadedModel, bank: LoraBank, compiler: Compiler | None = None) -> None:  # noqa: ARG002
        # Never compiled: each length of a text would be a shape of its own.
        super().__init__(loaded, bank)

    def is_guided(self, request: GenerationRequest) -> bool:
        return self.spec.limits.has_guidance and request.guidance_scale > 0

    def guided(self, rows: torch.Tensor, scale: float) -> torch.Tensor:
        # Counted from the text's own row here: a scale of 0, not of 1, is no guidance.
        return super().guided(rows, scale + 1)

    def embed(self, texts: Sequence[str | None]) -> list[TextEmbedding]:
        # Nothing said is an empty text here.
        prompts = [text or "" for text in texts]
        tokens, _ = self.pipeline.encode_prompt(prompts, device=self.device, do_classifier_free_guidance=False)
        return [TextEmbedding(tokens_LD) for tokens_LD in tokens]

    def noise(self, order: Order, generator: torch.Generator, dtype: torch.dtype | None = None) -> torch.Tensor:
        # As the pipelines do it: without a picture to start from in full precision, whatever the model's.
        return super().noise(order, generator, dtype or (torch.float32 if order.image is None else None))

    def predict(self, samples: Sequence[Sample], *, is_adapted: bool) -> torch.Tensor:  # noqa: ARG002
        latents = [sample.latents for sample in samples for _ in range(sample.num_rows)]
        timesteps = torch.stack([s.timestep for s in samples for _ in range(s.num_rows)]).to(self.device)
        velocities_CFHW = self.denoiser.module(
            list(torch.cat(latents).to(self.dtype).unsqueeze(2)),
            (1000 - timesteps) / 1000,
            [text.tokens_LD for sample in samples for text in sample.texts],
            return_dict=False,
        )[0]
        # It predicts the way from the noise to the picture.
        return -torch.stack(velocities_CFHW).squeeze(2).float()
