"""LoraWeights: one adapter's low-rank layers, by the module that each of them changes. Knows no file and no format."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class LoraLayer:
    """What is added to one module: up(down(x)), alpha already in `up`.

    Of a Linear, `down` is [rank, in] and `up` [out, rank]; of a Conv2d [rank, in, height, width] and [out, rank, 1, 1].
    A DoRA has `lengths` [4, out] as well, in float32: see models.lora_files.dora.
    """

    down: torch.Tensor
    up: torch.Tensor
    lengths: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def num_bytes(self) -> int:
        return self.down.nbytes + self.up.nbytes + (0 if self.lengths is None else self.lengths.nbytes)


@dataclass(frozen=True, slots=True)
class LoraWeights:
    """An adapter: "component.module.path", such as "unet.mid_block.attentions.0.proj_in", → its layer."""

    layers: Mapping[str, LoraLayer]

    @property
    def num_bytes(self) -> int:
        return sum(layer.num_bytes for layer in self.layers.values())

    @property
    def max_rank(self) -> int:
        return max(layer.rank for layer in self.layers.values())
