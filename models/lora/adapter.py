"""Adapter: one LoRA on the device, in one piece of memory."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from models.lora_files import LoraLayer, LoraWeights

Layers = Mapping[str, LoraLayer]  # by module path


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A LoRA ready to be used; two are the same only if they are the same object."""

    sha256: str
    memory: torch.Tensor  # every layer is a view of it
    components: Mapping[str, Layers]  # "unet" → path → layer

    @property
    def num_bytes(self) -> int:
        return self.memory.nbytes

    def to(self, device: torch.device) -> "Adapter":
        """The same adapter on another device, moved in one copy."""
        return self if device == self.memory.device else _over(self.sha256, self.memory.to(device), self.components)


# The adapters of one row of a batch, each with its scale; none: the row stays what the model makes of it.
RowLoras = tuple[tuple[Adapter, float], ...]


def pack_adapter(sha256: str, weights: LoraWeights, dtype: torch.dtype, *, is_pinned: bool) -> Adapter:
    """The adapter on the CPU; pinned memory lets a GPU fetch it without stopping anybody."""
    tensors = [tensor for layer in weights.layers.values() for tensor in (layer.down, layer.up)]
    memory = torch.empty(sum(tensor.numel() for tensor in tensors), dtype=dtype, pin_memory=is_pinned)
    torch.cat([tensor.flatten().to(dtype) for tensor in tensors], out=memory)
    components: dict[str, dict[str, LoraLayer]] = {}
    for name, layer in weights.layers.items():
        component, _, path = name.partition(".")
        components.setdefault(component, {})[path] = layer
    return _over(sha256, memory, components)


def _over(sha256: str, memory: torch.Tensor, like: Mapping[str, Layers]) -> Adapter:
    """An adapter whose layers have the shapes of `like`, laid over `memory` in the same order."""
    start = 0

    def next_view(shape: torch.Size) -> torch.Tensor:
        nonlocal start
        view = memory[start : start + shape.numel()].view(shape)
        start += shape.numel()
        return view

    components = {
        component: {
            path: LoraLayer(down=next_view(layer.down.shape), up=next_view(layer.up.shape))
            for path, layer in layers.items()
        }
        for component, layers in like.items()
    }
    return Adapter(sha256, memory, components)
