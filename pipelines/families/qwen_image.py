"""Qwen-Image: a language model reads the text, a transformer over packed latents, guidance by two rows."""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from models.loader import LoadedModel
from models.lora import LoraBank
from pipelines.families.flow import PackedFlowFamily
from pipelines.request import GenerationRequest
from pipelines.sample import Sample, TextEmbedding
from pipelines.speed import Compiler

# R rows (two for a guided sample), B texts, S patches of the picture, L text tokens, D text width;
# a packed latent is [1, S, 4 C]. The autoencoder is one for films: a picture is their only frame, after C.

MAX_TEXT_TOKENS = 512


class QwenImage(PackedFlowFamily):
    """Rows of one batch may differ in the length of their texts: the shorter are filled up behind a mask."""

    text_encoders = ()  # nobody adapts the language model

    def __init__(self, loaded: LoadedModel, bank: LoraBank, compiler: Compiler | None = None) -> None:  # noqa: ARG002
        # Never compiled: each length of a text would be a shape of its own.
        super().__init__(loaded, bank)

    def is_guided(self, request: GenerationRequest) -> bool:
        # Without a negative prompt there is no second row either; one blank is the customary one.
        return super().is_guided(request) and self.negative_text(request) is not None

    def guided(self, rows: torch.Tensor, scale: float) -> torch.Tensor:
        """Every token keeps the length that it has in the text's own row."""
        mixed = super().guided(rows, scale)
        if len(rows) > 1:
            own, given = (each.norm(dim=-1, keepdim=True) for each in (rows[1:], mixed))
            mixed = mixed * (own / given)
        return mixed

    def embed(self, texts: Sequence[str | None]) -> list[TextEmbedding]:
        prompts = [text or "" for text in texts]
        tokens_BLD, mask_BL = self.pipeline.encode_prompt(
            prompts, device=self.device, max_sequence_length=MAX_TEXT_TOKENS
        )
        if mask_BL is None:
            return [TextEmbedding(tokens_LD) for tokens_LD in tokens_BLD]
        return [TextEmbedding(tokens_LD[mask_L.bool()]) for tokens_LD, mask_L in zip(tokens_BLD, mask_BL, strict=True)]

    def predict(self, samples: Sequence[Sample], *, is_adapted: bool) -> torch.Tensor:  # noqa: ARG002
        latents = [sample.latents for sample in samples for _ in range(sample.num_rows)]
        # In the precision of the latents before the division, as the pipeline does it.
        timesteps = torch.stack([s.timestep for s in samples for _ in range(s.num_rows)]).to(self.device, self.dtype)
        tokens = [text.tokens_LD for sample in samples for text in sample.texts]
        velocities: torch.Tensor = self.denoiser.module(
            hidden_states=torch.cat(latents),
            timestep=timesteps / 1000,
            encoder_hidden_states=pad_sequence(tokens, batch_first=True),
            encoder_hidden_states_mask=_mask(tokens),
            img_shapes=[[(1, *self.rows_and_columns(samples[0].order.request))]] * len(latents),
            return_dict=False,
        )[0]
        return velocities

    def unpacked(self, latents: torch.Tensor, width_px: int, height_px: int) -> torch.Tensor:
        return super().unpacked(latents, width_px, height_px).squeeze(2)

    @property
    def latent_channels(self) -> int:
        return int(self.pipeline.vae.config.z_dim)

    # These two may run at once: what the autoencoder keeps from frame to frame it makes anew for every picture.

    def encoded(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return super().encoded(pixels.unsqueeze(2), generator).squeeze(2)

    def decoded(self, latents: torch.Tensor, *, tiled: bool) -> torch.Tensor:
        return super().decoded(latents.unsqueeze(2), tiled=tiled).squeeze(2)


def _mask(tokens: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """[R, L], true where a row has text of its own; None, which is faster, where all have."""
    lengths = [len(tokens_LD) for tokens_LD in tokens]
    if len(set(lengths)) == 1:
        return None
    device = tokens[0].device
    return torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device).unsqueeze(1)
