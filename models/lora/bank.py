"""LoraBank: which adapters are resident, on the host and on the device, and which rows of a batch use them."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import torch
from diffusers import DiffusionPipeline

from models.errors import AdapterError, OutOfMemory
from models.lora.adapter import Adapter, RowLoras, pack_adapter
from models.lora.forward import ComponentLoras
from models.lora_files import read_lora
from models.lora_files.names import PREFIXES
from models.spec import Family

# What the gathered stacks of all components may hold, beside the adapters and as a share of their budget.
STACK_SHARE = 0.5
LOAD_DEADLINE_S = 300.0


@dataclass(frozen=True, slots=True)
class BankStats:
    """Counts since the start, and what is resident now."""

    device_bytes: int
    host_bytes: int
    stack_bytes: int
    num_resident: int
    num_in_use: int
    num_loads: int
    num_hits: int
    num_evictions: int


@dataclass(slots=True)
class _Resident:
    adapter: Adapter
    num_users: int


class LoraBank:
    """The adapters of one loaded model: file → host → device, least recently used first out, never one in use.

    `acquire` and `release` are for loader threads and may wait for files; `rows` is for the threads that run the model.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        family: Family,
        device: torch.device,
        dtype: torch.dtype,
        *,
        max_device_bytes: int,
        max_host_bytes: int,
    ) -> None:
        self._pipeline, self._family, self._device, self._dtype = pipeline, family, device, dtype
        self._max_device_bytes, self._max_host_bytes = max_device_bytes, max_host_bytes
        names = PREFIXES[family]
        cache_bytes = int(max_device_bytes * STACK_SHARE) // len(names)
        self._components = {
            name: ComponentLoras(name, getattr(pipeline, name), max_cache_bytes=cache_bytes) for name in names
        }
        self._copy_stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._lock = Lock()  # guards everything below; never held while a file is read or memory copied
        self._host: OrderedDict[str, Adapter] = OrderedDict()
        self._resident: OrderedDict[str, _Resident] = OrderedDict()
        self._loading: dict[str, Future[None]] = {}
        self._device_bytes = self._host_bytes = 0
        self._num_loads = self._num_hits = self._num_evictions = 0

    def acquire(self, sha256: str, fetch: Callable[[], Path]) -> Adapter:
        """The adapter with this hash, resident until it is released; `fetch` is asked for its file where need be.

        AdapterError when it does not fit the model. Whoever asks for one that is being loaded waits for that.
        """
        while True:
            with self._lock:
                if resident := self._resident.get(sha256):
                    self._resident.move_to_end(sha256)
                    resident.num_users += 1
                    self._num_hits += 1
                    return resident.adapter
                is_mine = sha256 not in self._loading
                loading = self._loading.setdefault(sha256, Future())
            if is_mine:
                return self._load(sha256, fetch, loading)
            try:
                loading.result(LOAD_DEADLINE_S)
            except TimeoutError:
                raise AdapterError(f"The adapter took more than {LOAD_DEADLINE_S:.0f} s to load.") from None

    def release(self, adapter: Adapter) -> None:
        """One user less. The adapter stays resident until its room is needed."""
        with self._lock:
            resident = self._resident[adapter.sha256]
            assert resident.num_users > 0, "released more often than acquired"
            resident.num_users -= 1
            evicted = self._evict(0)
        self._forget(evicted)

    def rows(self, component: str, rows: Sequence[RowLoras]) -> AbstractContextManager[bool]:
        """Around one forward of a component ("unet", "transformer", "text_encoder" …): the adapters of its rows.

        Gives whether hooks are on, which compiled code would not see: also, once, when no row has an adapter, for the
        first forward is watched to learn which modules share their input. For one thread per component at a time.
        Cheapest where rows of the same adapters are neighbours.
        """
        return self._components[component].rows(rows)

    @property
    def stats(self) -> BankStats:
        """A consistent view, for metrics."""
        with self._lock:
            return BankStats(
                device_bytes=self._device_bytes,
                host_bytes=self._host_bytes,
                stack_bytes=sum(component.stack_bytes for component in self._components.values()),
                num_resident=len(self._resident),
                num_in_use=sum(resident.num_users > 0 for resident in self._resident.values()),
                num_loads=self._num_loads,
                num_hits=self._num_hits,
                num_evictions=self._num_evictions,
            )

    def _load(self, sha256: str, fetch: Callable[[], Path], done: Future[None]) -> Adapter:
        try:
            on_host = self._on_host(sha256, fetch)
            with self._lock:
                evicted = self._evict(on_host.num_bytes)
                self._device_bytes += on_host.num_bytes
            self._forget(evicted)
            try:
                adapter = self._on_device(on_host)
            except BaseException:
                with self._lock:
                    self._device_bytes -= on_host.num_bytes
                raise
            with self._lock:
                self._resident[sha256] = _Resident(adapter, num_users=1)
                self._num_loads += 1
                del self._loading[sha256]
        except BaseException as error:
            # Not cached: whoever asks next tries again.
            with self._lock:
                del self._loading[sha256]
            done.set_exception(error)
            raise
        done.set_result(None)
        return adapter

    def _on_host(self, sha256: str, fetch: Callable[[], Path]) -> Adapter:
        with self._lock:
            if sha256 in self._host:
                self._host.move_to_end(sha256)
                return self._host[sha256]
        weights = read_lora(fetch(), self._pipeline, self._family)
        adapter = pack_adapter(sha256, weights, self._dtype, is_pinned=self._device.type == "cuda")
        with self._lock:
            self._host[sha256] = adapter
            self._host_bytes += adapter.num_bytes
            while self._host_bytes > self._max_host_bytes and len(self._host) > 1:
                self._host_bytes -= self._host.popitem(last=False)[1].num_bytes
        return adapter

    def _on_device(self, on_host: Adapter) -> Adapter:
        if self._copy_stream is None:
            return on_host
        try:
            # A stream of its own: the copy neither waits for the model's kernels nor holds them up.
            with torch.cuda.stream(self._copy_stream):
                adapter = on_host.to(self._device)
            self._copy_stream.synchronize()
        except torch.OutOfMemoryError as error:
            raise OutOfMemory("The GPU has no memory left for the adapter.") from error
        return adapter

    def _evict(self, wanted_bytes: int) -> list[Adapter]:
        """Take idle adapters out until `wanted_bytes` fit or all are in use; call with the lock held."""
        evicted = []
        for sha256, resident in list(self._resident.items()):
            if self._device_bytes + wanted_bytes <= self._max_device_bytes:
                break
            if resident.num_users == 0:
                del self._resident[sha256]
                self._device_bytes -= resident.adapter.num_bytes
                self._num_evictions += 1
                evicted.append(resident.adapter)
        return evicted

    def _forget(self, evicted: Sequence[Adapter]) -> None:
        for adapter in evicted:
            for component in self._components.values():
                component.forget(adapter)
