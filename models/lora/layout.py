"""Where in a stack the matrices of each adapted module lie, and how one row's adapters are written there.

N stacks of S numbers, I inputs, O outputs, R rank of one module, G ranks of all modules that share an input
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from models.lora.adapter import RowLoras
from models.lora_files.dora import gain

Module = nn.Linear | nn.Conv2d
LayoutKey = Hashable


@dataclass(frozen=True, slots=True)
class Need:
    """What the adapters of a batch ask of one module's place."""

    rank: int
    is_gained: bool  # one of them is a DoRA


@dataclass(frozen=True, slots=True)
class Place:
    """Where one module's two matrices are in a stack, and its columns among those of the modules it shares with."""

    module: Module
    rank: int
    down_start: int
    num_columns: int  # G
    first_column: int
    up_start: int
    gains_start: int | None

    def down(self, stacks_NS: torch.Tensor) -> torch.Tensor:
        """[N, G, I]"""
        num_inputs = self.module.weight[0].numel()
        down_NS = stacks_NS[:, self.down_start : self.down_start + self.num_columns * num_inputs]
        return down_NS.view(-1, self.num_columns, num_inputs)

    def up(self, stacks_NS: torch.Tensor) -> torch.Tensor:
        """[N, R, O]"""
        num_outputs = self.module.weight.shape[0]
        return stacks_NS[:, self.up_start : self.up_start + self.rank * num_outputs].view(-1, self.rank, num_outputs)

    def gains(self, stacks_NS: torch.Tensor) -> torch.Tensor | None:
        """[N, 2, O]: how much more than one an output is multiplied by, and what this makes of its bias, taken off."""
        if self.gains_start is None:
            return None
        num_outputs = self.module.weight.shape[0]
        return stacks_NS[:, self.gains_start : self.gains_start + 2 * num_outputs].view(-1, 2, num_outputs)

    @property
    def columns(self) -> slice:
        return slice(self.first_column, self.first_column + self.rank)


class Layout:
    """Which modules are adapted at which rank, and hence where their matrices lie in a stack."""

    def __init__(
        self, component: str, modules: Mapping[str, Module], needs: Mapping[str, Need], shared: Mapping[str, str]
    ) -> None:
        self._component = component
        self.key: LayoutKey = (tuple(needs.items()), bool(shared))  # `shared` is learnt once
        self.places: dict[str, Place] = {}
        self.groups: dict[str, list[str]] = {}
        for path in needs:
            is_linear = isinstance(modules[path], nn.Linear)
            self.groups.setdefault(shared.get(path, path) if is_linear else path, []).append(path)
        start = 0
        for paths in self.groups.values():
            num_columns = sum(needs[path].rank for path in paths)
            down_start, column = start, 0
            start += num_columns * modules[paths[0]].weight[0].numel()
            for path in paths:
                need, num_outputs = needs[path], modules[path].weight.shape[0]
                gains_start = start + need.rank * num_outputs if need.is_gained else None
                self.places[path] = Place(modules[path], need.rank, down_start, num_columns, column, start, gains_start)
                column += need.rank
                start += (need.rank + (2 if need.is_gained else 0)) * num_outputs
        self.size = start

    def pack(self, row: RowLoras, like: torch.Tensor) -> torch.Tensor:
        """One row's stack, in the dtype and on the device of `like`; scales and gains are folded into `up`."""
        stack_1S = like.new_zeros(1, self.size)
        for path, place in self.places.items():
            self._pack_module(path, place, row, stack_1S)
        for adapter, _ in row:
            for memory in (adapter.memory, adapter.lengths):
                if memory.is_cuda:
                    # It belongs to the stream that copied it there, and must not be given away before we have read it.
                    memory.record_stream(torch.cuda.current_stream(memory.device))
        return stack_1S[0]

    def _pack_module(self, path: str, place: Place, row: RowLoras, stack_1S: torch.Tensor) -> None:
        """As peft has it, a DoRA multiplies what the model and the adapters before it in the row have made."""
        down_GI, up_RO, gains_12O = place.down(stack_1S)[0], place.up(stack_1S)[0], place.gains(stack_1S)
        rank, total_O = 0, None
        for adapter, scale in row:
            if layer := adapter.components[self._component].get(path):
                down_GI[place.first_column + rank :][: layer.rank] = layer.down.flatten(1)
                torch.mul(layer.up.flatten(1).T, scale, out=up_RO[rank : rank + layer.rank])
                rank += layer.rank
                if layer.lengths is not None:
                    gain_O = gain(layer.lengths, scale)
                    up_RO[:rank] *= gain_O
                    total_O = gain_O if total_O is None else total_O * gain_O
        if gains_12O is not None and total_O is not None:
            gains_12O[0, 0] = total_O - 1
            if place.module.bias is not None:
                gains_12O[0, 1] = (1 - total_O) * place.module.bias.detach()
