"""Sample: one picture's life on the device. Owns everything private to it, so that any set of samples is a batch."""

from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from models.lora import RowLoras
from pipelines.request import GenerationRequest

Scheduler = Any  # any of diffusers', which are untyped

# L text tokens, D text width, C latent channels, H W latent size; a leading 1 is the picture itself.


@dataclass(frozen=True, slots=True)
class TextEmbedding:
    """What a denoiser is told by one text."""

    tokens_LD: torch.Tensor
    pooled_D: torch.Tensor | None = None  # families with a vector for the text as a whole

    @property
    def num_bytes(self) -> int:
        return self.tokens_LD.nbytes + (0 if self.pooled_D is None else self.pooled_D.nbytes)


@dataclass(frozen=True, slots=True)
class Order:
    """One picture to be started: a request, which of its images, and what was prepared for it beside the loop."""

    request: GenerationRequest
    image_index: int
    prompt: TextEmbedding
    negative: TextEmbedding | None  # None: no guidance, one row instead of two
    loras: RowLoras = ()
    image: Image.Image | None = None  # RGB, in the size asked for
    mask: Image.Image | None = None  # L, white where it is to be painted anew

    @property
    def seed(self) -> int:
        return self.request.image_seed(self.image_index)


@dataclass(frozen=True, slots=True)
class Inpaint:
    """What keeps the rest of the picture as it was: after every step, everything outside the mask is put back."""

    mask: torch.Tensor  # 1 where painted anew, in the shape of the latents or one that broadcasts
    original: torch.Tensor  # latents of the picture
    noise: torch.Tensor  # what the original is noised with at every level


@dataclass(slots=True, eq=False)
class Sample:
    """Made by Family.start(); changed by Family.step() alone."""

    order: Order
    latents: torch.Tensor  # [1, C, H, W], or packed as the family likes it
    scheduler: Scheduler  # its own: they keep state
    timesteps: torch.Tensor  # on the CPU: schedulers look at them, and the device must not be waited for
    generator: torch.Generator  # its own, on the CPU: the same seed is the same noise on every device
    step_arguments: dict[str, Any] = field(default_factory=dict)  # what its scheduler's step() takes beside the usual
    conditioning: dict[str, torch.Tensor] = field(default_factory=dict)  # the family's own, one row each
    inpaint: Inpaint | None = None
    step: int = 0  # finished steps
    denoised: torch.Tensor | None = None  # what the last step took for the finished picture

    @property
    def width_px(self) -> int:
        return self.order.request.width_px

    @property
    def height_px(self) -> int:
        return self.order.request.height_px

    @property
    def num_steps(self) -> int:
        """Steps it takes in all; some schedulers take one more than asked for, a start from a picture takes fewer."""
        return len(self.timesteps)

    @property
    def is_done(self) -> bool:
        return self.step >= self.num_steps

    @property
    def timestep(self) -> torch.Tensor:
        return self.timesteps[self.step]

    @property
    def texts(self) -> tuple[TextEmbedding, ...]:
        """One for each row of the forward pass: unconditional first, as everywhere in diffusers."""
        negative = self.order.negative
        return (self.order.prompt,) if negative is None else (negative, self.order.prompt)

    @property
    def num_rows(self) -> int:
        return 1 if self.order.negative is None else 2
