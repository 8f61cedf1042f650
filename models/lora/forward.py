"""Forward passes of one component in which each row of the batch uses adapters of its own.

Nothing is merged and nothing reloaded: the matrices of all rows lie side by side in stacks, and hooks add to a module's
output what they make of its input. From step to step only the rows that have changed are copied anew.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from models.lora.adapter import Adapter, RowLoras
from models.lora.cache import ByteLru
from models.lora.layout import Layout, LayoutKey, Module, Need
from models.lora.stacks import Part, Stacks, window_of

# Ranks are rounded up to this, so that batches of nearly equal ranks have one layout; a GPU wants rows of 16 bytes.
RANK_STEP = {"cpu": 4, "cuda": 8}


class ComponentLoras:
    """One component's hooks and stacks. `rows` belongs to the thread that runs the component, `forget` to anybody."""

    def __init__(self, name: str, root: nn.Module, *, max_cache_bytes: int) -> None:
        self.name = name
        self._modules: dict[str, Module] = {
            path: module for path, module in root.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
        }
        self._stacks: ByteLru[tuple[LayoutKey, int], Stacks] = ByteLru(max_cache_bytes // 2)
        # Each row's part, so that it is gathered once however often its place in the batch changes.
        self._packed: ByteLru[tuple[LayoutKey, RowLoras], torch.Tensor] = ByteLru(max_cache_bytes // 2)
        self._last: tuple[tuple[RowLoras, ...], Stacks] | None = None
        # Module → the first of the modules that get the very same input. None until a whole forward has been watched.
        self._shared: dict[str, str] | None = None

    @contextmanager
    def rows(self, rows: Sequence[RowLoras]) -> Iterator[bool]:
        """Within, a forward of this component takes its batch for these rows, in order; gives whether hooks are on."""
        own = tuple(self._own(row) for row in rows)
        watch = _InputWatch() if self._shared is None else None
        if not any(own) and watch is None:
            yield False
            return
        parts = self._stacks_of(own).parts if any(own) else {}
        hooks = [self._modules[path].register_forward_hook(_adding(part)) for path, part in parts.items()]
        if watch is not None:
            hooks += [module.register_forward_hook(watch.watching(path)) for path, module in self._modules.items()]
        try:
            yield True
        finally:
            for hook in hooks:
                hook.remove()
            for part in parts.values():
                part.forget_input()
        if watch is not None:
            self._shared, self._last = watch.shared, None

    def forget(self, adapter: Adapter) -> None:
        """Keep nothing of this adapter, which no running row uses."""
        self._last = None
        self._packed.drop(lambda key: adapter in (used for used, _ in key[1]))
        for stacks in self._stacks.values():
            stacks.forget(adapter)

    @property
    def stack_bytes(self) -> int:
        return self._stacks.num_bytes + self._packed.num_bytes

    def _own(self, row: RowLoras) -> RowLoras:
        # At a scale of zero a LoRA does nothing, but a DoRA still sets lengths, as in peft.
        return tuple(
            (adapter, scale) for adapter, scale in row if (scale or adapter.is_dora) and self.name in adapter.components
        )

    def _stacks_of(self, rows: tuple[RowLoras, ...]) -> Stacks:
        last = self._last  # once: another thread may forget it
        if last and last[0] == rows:
            return last[1]
        layout = Layout(self.name, self._modules, self._needs(rows), self._shared or {})
        window = window_of(rows)
        # In powers of two, so that rows may come and go without new memory.
        capacity = 1 << (window.num_stacks - 1).bit_length()
        stacks = self._stacks.get((layout.key, capacity))
        if stacks is None:
            stacks = Stacks(layout, capacity, like=rows[window.start][0][0].memory)
            self._stacks.put((layout.key, capacity), stacks, stacks.num_bytes)
        stacks.fill(rows, window, self._pack)
        self._last = (rows, stacks)
        return stacks

    def _pack(self, layout: Layout, row: RowLoras, like: torch.Tensor) -> torch.Tensor:
        key = (layout.key, row)
        packed_S = self._packed.get(key)
        if packed_S is None:
            packed_S = layout.pack(row, like)
            self._packed.put(key, packed_S, packed_S.nbytes)
        return packed_S

    def _needs(self, rows: Sequence[RowLoras]) -> dict[str, Need]:
        """Of each module: the largest rank that a row's adapters add up to, rounded up, and whether one is a DoRA."""
        ranks: dict[str, int] = {}
        gained: set[str] = set()
        step = RANK_STEP[next(adapter.memory.device.type for row in rows for adapter, _ in row)]
        for row in set(rows):
            of_row: dict[str, int] = {}
            for adapter, _ in row:
                for path, layer in adapter.components[self.name].items():
                    of_row[path] = of_row.get(path, 0) + layer.rank
                    if layer.lengths is not None:
                        gained.add(path)
            for path, rank in of_row.items():
                ranks[path] = max(ranks.get(path, 0), -(-rank // step) * step)
        # In the model's order: the same needs are the same layout.
        return {path: Need(ranks[path], path in gained) for path in self._modules if path in ranks}


class _InputWatch:
    """Learns in a forward which modules are given the very same tensor, as the projections of an attention are."""

    def __init__(self) -> None:
        self.shared: dict[str, str] = {}
        self._seen: dict[int, tuple[weakref.ref[torch.Tensor], str]] = {}

    def watching(self, path: str) -> Callable[..., None]:
        def watch(_module: nn.Module, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
            reference, first = self._seen.get(id(inputs[0]), (None, path))
            if reference is None or reference() is not inputs[0]:
                first = path
                self._seen[id(inputs[0])] = weakref.ref(inputs[0]), path
            self.shared[path] = first

        return watch


def _adding(part: Part) -> Callable[..., None]:
    def add(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        part.add(inputs[0], output)

    return add
