"""Adapter: one LoRA or DoRA on the device, in one piece of memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from models.lora_files import LoraLayer, LoraWeights

Layers = Mapping[str, LoraLayer]  # by module path


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A LoRA ready to be used; two are the same only if they are the same object."""

    sha256: str
    memory: torch.Tensor  # every layer's matrices are views of it
    lengths: torch.Tensor  # float32; a DoRA's layers have views of it, a LoRA nothing
    components: Mapping[str, Layers]  # "unet" → path → layer

    @property
    def num_bytes(self) -> int:
        return self.memory.nbytes + self.lengths.nbytes

    @property
    def is_dora(self) -> bool:
        return self.lengths.numel() > 0

    def to(self, device: torch.device) -> "Adapter":
        """The same adapter on another device, moved in one piece."""
        if device == self.memory.device:
            return self
        return _over(self.sha256, self.memory.to(device), self.lengths.to(device), self.components)


# The adapters of one row of a batch, each with its scale; none: the row stays what the model makes of it.
RowLoras = tuple[tuple[Adapter, float], ...]


def pack_adapter(sha256: str, weights: LoraWeights, dtype: torch.dtype, *, is_pinned: bool) -> Adapter:
    """The adapter on the CPU; pinned memory lets a GPU fetch it without stopping anybody."""
    layers = weights.layers.values()
    memory = _joined([tensor for layer in layers for tensor in (layer.down, layer.up)], dtype, is_pinned)
    lengths = _joined([layer.lengths for layer in layers if layer.lengths is not None], torch.float32, is_pinned)
    components: dict[str, dict[str, LoraLayer]] = {}
    for name, layer in weights.layers.items():
        component, _, path = name.partition(".")
        components.setdefault(component, {})[path] = layer
    return _over(sha256, memory, lengths, components)


def _joined(tensors: Sequence[torch.Tensor], dtype: torch.dtype, is_pinned: bool) -> torch.Tensor:
    memory = torch.empty(sum(tensor.numel() for tensor in tensors), dtype=dtype, pin_memory=is_pinned)
    if tensors:
        torch.cat([tensor.flatten().to(dtype) for tensor in tensors], out=memory)
    return memory


def _over(sha256: str, memory: torch.Tensor, lengths: torch.Tensor, like: Mapping[str, Layers]) -> Adapter:
    """An adapter whose layers have the shapes of `like`, laid over `memory` and `lengths` in the same order."""
    next_matrix, next_lengths = _cutter(memory), _cutter(lengths)
    components = {
        component: {
            path: LoraLayer(
                next_matrix(layer.down.shape),
                next_matrix(layer.up.shape),
                None if layer.lengths is None else next_lengths(layer.lengths.shape),
            )
            for path, layer in layers.items()
        }
        for component, layers in like.items()
    }
    return Adapter(sha256, memory, lengths, components)


def _cutter(memory: torch.Tensor) -> Callable[[torch.Size], torch.Tensor]:
    """Gives one view of `memory` after the other."""
    start = 0

    def next_view(shape: torch.Size) -> torch.Tensor:
        nonlocal start
        view = memory[start : start + shape.numel()].view(shape)
        start += shape.numel()
        return view

    return next_view
