"""The low-rank matrices of all rows of a batch, stacked, and how they are added to what a module gives.

N stacks of S numbers, K neighbouring rows that share a stack, B = N·K rows, T tokens (or pixels), I inputs, O outputs,
R rank of one module (the largest of all rows, zero-padded), G ranks of all modules that share an input, C channels,
h w height and width
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from models.lora.adapter import Adapter, RowLoras
from models.lora.layout import Layout


@dataclass(frozen=True, slots=True)
class Window:
    """The rows from the first to the last that have an adapter; the others are not touched."""

    start: int
    stop: int
    num_rows: int
    num_stacks: int

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, …, I] → [N, K·T, I]"""
        whole = x.reshape(self.num_rows, -1, x.shape[-1])
        return whole[self.start : self.stop].reshape(self.num_stacks, -1, x.shape[-1])

    def pick(self, rows: Sequence[RowLoras]) -> Sequence[RowLoras]:
        """The first row of each stack."""
        return rows[self.start : self.stop : (self.stop - self.start) // self.num_stacks]


def window_of(rows: Sequence[RowLoras]) -> Window:
    """The touched rows, and the fewest stacks that serve them: equal neighbours share one if all runs are as long."""
    touched = [index for index, row in enumerate(rows) if row]
    start, stop = touched[0], touched[-1] + 1
    inside = rows[start:stop]
    for length in range(len(inside), 0, -1):
        if len(inside) % length == 0 and all(row == inside[index - index % length] for index, row in enumerate(inside)):
            return Window(start, stop, len(rows), len(inside) // length)
    raise AssertionError("runs of one row are always equal")


@dataclass(slots=True)
class Batch:
    """What all parts of one set of stacks must know of the batch at hand; Stacks.fill() says it."""

    window: Window


class SharedDown:
    """x·down of all modules that get the same x: computed by the first of them that asks."""

    def __init__(self, batch: Batch, down_NGI: torch.Tensor, num_users: int) -> None:
        self._batch = batch
        # Kept with the inputs last: multiplied this way round, MKL takes half the time at small ranks.
        self._down_NIG = down_NGI.transpose(1, 2)
        self._num_users = num_users
        self._num_left = 0
        self._x: torch.Tensor | None = None
        self._low_NTG: torch.Tensor | None = None

    def project(self, x: torch.Tensor, columns: slice) -> torch.Tensor:
        """[N, K·T, R]; an x that is not the one of before is projected anew."""
        if x is not self._x or self._low_NTG is None:
            window = self._batch.window
            self._x, self._num_left = x, self._num_users
            self._low_NTG = torch.bmm(window.of(x), self._down_NIG[: window.num_stacks])
        low_NTR = self._low_NTG[:, :, columns]
        self._num_left -= 1
        if self._num_left == 0:
            self.forget_input()
        return low_NTR

    def forget_input(self) -> None:
        """Let go of the activations."""
        self._x = self._low_NTG = None


@dataclass(frozen=True, slots=True)
class LinearPart:
    """What is added to a Linear's output."""

    batch: Batch
    shared: SharedDown
    columns: slice
    up_NRO: torch.Tensor

    def add(self, x: torch.Tensor, out: torch.Tensor) -> None:
        window = self.batch.window
        low_NTR = self.shared.project(x, self.columns)
        window.of(out).baddbmm_(low_NTR, self.up_NRO[: window.num_stacks])

    def forget_input(self) -> None:
        """Let go of the activations, should the forward have ended before all had used them."""
        self.shared.forget_input()


@dataclass(frozen=True, slots=True)
class ConvPart:
    """What is added to a Conv2d's output."""

    batch: Batch
    module: nn.Conv2d
    down_NRI: torch.Tensor
    up_NRO: torch.Tensor

    def add(self, x: torch.Tensor, out: torch.Tensor) -> None:
        window, module = self.batch.window, self.module
        x_BChw, out_BOhw = x[window.start : window.stop], out[window.start : window.stop]
        num_stacks, rank = window.num_stacks, self.down_NRI.shape[1]
        # A stack's rows become a group of channels; rows that share a stack stay rows.
        x_KNChw = x_BChw.view(num_stacks, -1, *x.shape[1:]).transpose(0, 1).flatten(1, 2)
        low_KNRhw = functional.conv2d(
            x_KNChw,
            self.down_NRI[:num_stacks].reshape(num_stacks * rank, -1, *module.kernel_size),
            stride=module.stride,
            padding=module.padding,
            dilation=module.dilation,
            groups=num_stacks,
        )
        low_BRT = low_KNRhw.unflatten(1, (num_stacks, rank)).transpose(0, 1).flatten(0, 1).flatten(2)
        up_BOR = self.up_NRO[:num_stacks].transpose(1, 2).repeat_interleave(low_KNRhw.shape[0], dim=0)
        out_BOhw.view(*out_BOhw.shape[:2], -1).baddbmm_(up_BOR, low_BRT)

    def forget_input(self) -> None:
        """Nothing is kept."""


@dataclass(frozen=True, slots=True)
class GainedPart:
    """A part of whose rows some have a DoRA: that multiplies what the module itself gives, its bias apart."""

    batch: Batch
    part: LinearPart | ConvPart
    gains_N2O: torch.Tensor  # how much more than one, and what that makes of the bias, taken off

    def add(self, x: torch.Tensor, out: torch.Tensor) -> None:
        window = self.batch.window
        excess_NO, shift_NO = self.gains_N2O[: window.num_stacks].unbind(1)
        if isinstance(self.part, ConvPart):
            out_NKOhw = out[window.start : window.stop].unflatten(0, (window.num_stacks, -1))
            out_NKOhw.addcmul_(out_NKOhw, excess_NO[:, None, :, None, None]).add_(shift_NO[:, None, :, None, None])
        else:
            out_NTO = window.of(out)
            out_NTO.addcmul_(out_NTO, excess_NO[:, None]).add_(shift_NO[:, None])
        self.part.add(x, out)

    def forget_input(self) -> None:
        """Let go of the activations."""
        self.part.forget_input()


Part = LinearPart | ConvPart | GainedPart
PackRow = Callable[[Layout, RowLoras, torch.Tensor], torch.Tensor]


class Stacks:
    """The matrices of up to `capacity` stacks in one piece of memory, and what each adapted module makes of them."""

    def __init__(self, layout: Layout, capacity: int, like: torch.Tensor) -> None:
        self._layout = layout
        self._memory_NS = like.new_empty(capacity, layout.size)
        self._contents: list[RowLoras | None] = [None] * capacity
        self._batch = Batch(Window(0, 0, 0, 0))
        self.parts: dict[str, Part] = {}
        for paths in layout.groups.values():
            places = [layout.places[path] for path in paths]
            down_NGI = places[0].down(self._memory_NS)
            shared = SharedDown(self._batch, down_NGI, num_users=len(paths))
            for path, place in zip(paths, places, strict=True):
                up_NRO = place.up(self._memory_NS)
                part = (
                    ConvPart(self._batch, place.module, down_NGI, up_NRO)
                    if isinstance(place.module, nn.Conv2d)
                    else LinearPart(self._batch, shared, place.columns, up_NRO)
                )
                gains = place.gains(self._memory_NS)
                self.parts[path] = part if gains is None else GainedPart(self._batch, part, gains)

    @property
    def num_bytes(self) -> int:
        return self._memory_NS.nbytes

    def fill(self, rows: Sequence[RowLoras], window: Window, pack: PackRow) -> None:
        """Make these the rows; a stack that is in its place already stays as it is."""
        self._batch.window = window
        for index, row in enumerate(window.pick(rows)):
            if self._contents[index] != row:
                self._memory_NS[index] = pack(self._layout, row, self._memory_NS)
                self._contents[index] = row

    def forget(self, adapter: Adapter) -> None:
        """Hold on to this adapter no longer. Another thread's `fill` may only have to copy a row once more."""
        for index, row in enumerate(self._contents):
            if row and any(used is adapter for used, _ in row):
                self._contents[index] = None
