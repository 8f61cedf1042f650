"""Learner: one model family's share of training. Everything random comes from outside, so a step can be done again.

B samples, C latent channels, H W latent size, L text tokens, D text width.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class LatentStats:
    """What the autoencoder makes of a picture: where its latents lie, not one draw of them. Scaled for the denoiser."""

    mean_BCHW: Tensor
    std_BCHW: Tensor


@dataclass(frozen=True, slots=True)
class Draws:
    """The chance in one step, as unit normal and uniform numbers; on the learner's device."""

    posterior_BCHW: Tensor  # which latents of a picture
    noise_BCHW: Tensor
    timestep_B: Tensor  # 0–1, uniform
    offset_BC11: Tensor  # for noise_offset


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one bucket, on the learner's device."""

    latents: LatentStats
    texts: Mapping[str, Tensor]  # as cache_texts() gave them, one row each; or token ids where encoders are trained
    shape: Mapping[str, Tensor]  # what the family is told of size and crop, one row each; empty for most
    weight_B: Tensor  # 1, or the recipe's prior_weight


class Learner(Protocol):
    """Holds the frozen model and the LoRA that is trained."""

    device: torch.device
    latent_channels: int
    latent_factor: int  # pixels of a picture's side to one of its latents'
    multiple_px: int  # of which the sides of what it learns from must be multiples

    def trainable(self) -> Mapping[str, nn.Parameter]:
        """By a name that stays the same from run to run, such as "unet.down_blocks.0….lora_A.weight"; sorted.

        The names are those of a diffusers LoRA file: what state() gives is what such a file holds.
        """
        ...

    def parameter_groups(self) -> Sequence[tuple[str, Sequence[nn.Parameter]]]:
        """("denoiser" or "text_encoder", its parameters), for their learning rates."""
        ...

    def cache_pictures(self, pixels_B3HW: Tensor) -> LatentStats:
        """Of pixels from -1 to 1. Without gradients."""
        ...

    def cache_texts(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        """What the denoiser is told of each text, or, where encoders are trained, what those are told."""
        ...

    def shape_of(
        self, original_px: tuple[int, int], crop_px: tuple[int, int], target_px: tuple[int, int]
    ) -> Mapping[str, Tensor]:
        """What the family is told of a picture's size and the corner it was cut at, one row; all (width, height)."""
        ...

    def losses(self, batch: Batch, draws: Draws) -> Tensor:
        """[B], with gradients; weighted by the recipe's min-SNR, not by weight_B."""
        ...

    def plain_losses(self, batch: Batch, draws: Draws, *, with_adapter: bool = True) -> Tensor:
        """[B], unweighted and without gradients: for validation. Off: what the base model has."""
        ...

    def without_adapter(self) -> AbstractContextManager[None]:
        """Within it the model, and its pipeline, is the base model."""
        ...

    def train_mode(self, is_on: bool) -> None:
        """Dropout on or off; off, the pipeline may make pictures. Off at first. It stays on until backward() is done.

        Dropout alone draws from torch's global generators; who wants a step again seeds them before it.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """A copy of trainable(), detached, on the CPU in float32."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of state(). KeyError where a name is missing or too many."""
        ...
