"""Adapters stay resident while they are used, leave when their room is needed, and load beside each other."""

import gc
import random
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pytest
import torch

from models.errors import AdapterError
from models.loader import PIPELINES
from models.lora import LoraBank
from tests.models.forwards import denoise, denoiser_inputs
from tests.models.tiny_loras import make_lora

WAIT_S = 30.0


@pytest.fixture(scope="module")
def pipeline(tiny_sd: Path) -> Any:
    return PIPELINES["sd"].from_pretrained(str(tiny_sd))


def bank_for(pipeline: Any, **budget: int) -> LoraBank:
    budgets = {"max_device_bytes": 10**8, "max_host_bytes": 10**8} | budget
    return LoraBank(pipeline, "sd", torch.device("cpu"), torch.float32, **budgets)


class Files:
    """Adapter files that count how often each was asked for."""

    def __init__(self, folder: Path, pipeline: Any, count: int) -> None:
        self.paths = [
            make_lora(folder / f"{number}.safetensors", pipeline, "sd", seed=number) for number in range(count)
        ]
        self.fetched: list[int] = []

    def fetch(self, number: int) -> Callable[[], Path]:
        def fetch() -> Path:
            self.fetched.append(number)
            return self.paths[number]

        return fetch


@pytest.fixture
def files(pipeline: Any, tmp_path: Path) -> Files:
    return Files(tmp_path, pipeline, 4)


@pytest.fixture
def size(pipeline: Any, files: Files) -> int:
    """Bytes of each of these adapters."""
    return bank_for(pipeline).acquire("0", lambda: files.paths[0]).num_bytes


def test_the_least_recently_used_idle_adapter_leaves_the_device(pipeline: Any, files: Files, size: int) -> None:
    bank = bank_for(pipeline, max_device_bytes=2 * size)
    for number in (0, 1):
        bank.release(bank.acquire(str(number), files.fetch(number)))
    bank.release(bank.acquire("0", files.fetch(0)))  # 1 is now the oldest
    bank.release(bank.acquire("2", files.fetch(2)))
    assert (bank.stats.num_resident, bank.stats.device_bytes, bank.stats.num_evictions) == (2, 2 * size, 1)
    for number, is_resident in ((0, True), (2, True), (1, False)):
        num_loads = bank.stats.num_loads
        bank.release(bank.acquire(str(number), files.fetch(number)))
        assert (bank.stats.num_loads == num_loads) == is_resident
    assert (bank.stats.num_loads, bank.stats.num_hits) == (4, 3)


def test_an_adapter_in_use_is_never_evicted_even_above_the_budget(pipeline: Any, files: Files, size: int) -> None:
    bank = bank_for(pipeline, max_device_bytes=size)
    held = [bank.acquire(str(number), files.fetch(number)) for number in range(3)]
    assert (bank.stats.device_bytes, bank.stats.num_in_use, bank.stats.num_evictions) == (3 * size, 3, 0)
    assert bank.acquire("0", files.fetch(0)) is held[0]
    for adapter in held:
        bank.release(adapter)
    # 0 has been acquired twice.
    assert (bank.stats.device_bytes, bank.stats.num_in_use) == (size, 1)
    assert bank.acquire("0", files.fetch(0)) is held[0]


def test_what_left_the_device_comes_back_from_the_host_without_its_file(pipeline: Any, files: Files, size: int) -> None:
    bank = bank_for(pipeline, max_device_bytes=size)
    for number in (0, 1, 0):
        bank.release(bank.acquire(str(number), files.fetch(number)))
    assert (files.fetched, bank.stats.num_loads, bank.stats.host_bytes) == ([0, 1], 3, 2 * size)


def test_the_host_keeps_its_budget_too(pipeline: Any, files: Files, size: int) -> None:
    bank = bank_for(pipeline, max_device_bytes=size, max_host_bytes=2 * size)
    for number in (0, 1, 2, 0):
        bank.release(bank.acquire(str(number), files.fetch(number)))
    assert (files.fetched, bank.stats.host_bytes) == ([0, 1, 2, 0], 2 * size)


def test_an_evicted_adapter_and_its_stacks_are_freed(pipeline: Any, files: Files, size: int) -> None:
    bank = bank_for(pipeline, max_device_bytes=size, max_host_bytes=size)
    adapter = bank.acquire("0", files.fetch(0))
    with bank.rows("unet", [((adapter, 1.0),)]):
        denoise(pipeline, "sd", denoiser_inputs("sd", 1))
    bank.release(adapter)
    memory = weakref.ref(adapter.memory)
    del adapter
    bank.release(bank.acquire("1", files.fetch(1)))
    gc.collect()
    assert memory() is None


def test_stacks_keep_their_budget_however_many_batches_come(pipeline: Any, files: Files, size: int) -> None:
    bank = bank_for(pipeline, max_device_bytes=40 * size)
    adapter = bank.acquire("0", files.fetch(0))
    for number in range(60):
        with bank.rows("unet", [((adapter, 1.0 + number),)]):
            denoise(pipeline, "sd", denoiser_inputs("sd", 1))
    assert 0 < bank.stats.stack_bytes <= 20 * size


def test_callers_of_the_same_adapter_load_it_once(pipeline: Any, files: Files) -> None:
    bank = bank_for(pipeline)
    started, go = Event(), Event()

    def slow_fetch() -> Path:
        started.set()
        assert go.wait(WAIT_S)
        return files.fetch(0)()

    with ThreadPoolExecutor(6) as threads:
        first = threads.submit(bank.acquire, "0", slow_fetch)
        assert started.wait(WAIT_S)
        others = [threads.submit(bank.acquire, "0", files.fetch(0)) for _ in range(5)]
        go.set()
        adapters = {first.result(WAIT_S), *(other.result(WAIT_S) for other in others)}
    assert len(adapters) == 1
    assert files.fetched == [0]
    for _ in range(6):
        bank.release(next(iter(adapters)))
    assert bank.stats.num_in_use == 0


def test_loads_of_different_adapters_do_not_wait_for_each_other(pipeline: Any, files: Files) -> None:
    bank = bank_for(pipeline)
    both_inside = Barrier(2)

    def fetch(number: int) -> Path:
        both_inside.wait(WAIT_S)  # broken unless both are being loaded at once
        return files.paths[number]

    with ThreadPoolExecutor(2) as threads:
        loads = [threads.submit(bank.acquire, str(number), lambda number=number: fetch(number)) for number in (0, 1)]
        assert len({load.result(WAIT_S) for load in loads}) == 2


def test_a_resident_adapter_is_had_while_another_loads(pipeline: Any, files: Files) -> None:
    bank = bank_for(pipeline)
    bank.release(bank.acquire("0", files.fetch(0)))
    started, go = Event(), Event()

    def slow_fetch() -> Path:
        started.set()
        assert go.wait(WAIT_S)
        return files.paths[1]

    with ThreadPoolExecutor(1) as threads:
        load = threads.submit(bank.acquire, "1", slow_fetch)
        assert started.wait(WAIT_S)
        adapter = bank.acquire("0", files.fetch(0))
        with bank.rows("unet", [((adapter, 1.0),)]):
            denoise(pipeline, "sd", denoiser_inputs("sd", 1))
        assert not load.done()
        go.set()
        load.result(WAIT_S)


def test_a_failed_load_reaches_all_who_wait_and_is_not_remembered(pipeline: Any, files: Files, tmp_path: Path) -> None:
    bank = bank_for(pipeline)
    started, go = Event(), Event()
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"not safetensors")

    def slow_fetch() -> Path:
        started.set()
        assert go.wait(WAIT_S)
        return damaged

    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(bank.acquire, "0", slow_fetch)
        assert started.wait(WAIT_S)
        second = threads.submit(bank.acquire, "0", lambda: damaged)
        go.set()
        for load in (first, second):
            with pytest.raises(AdapterError, match="not a safetensors file"):
                load.result(WAIT_S)
    assert (bank.stats.num_resident, bank.stats.device_bytes, bank.stats.host_bytes) == (0, 0, 0)
    assert bank.acquire("0", files.fetch(0)).sha256 == "0"


def test_many_threads_keep_the_books_straight(pipeline: Any, files: Files, size: int) -> None:
    bank = bank_for(pipeline, max_device_bytes=2 * size, max_host_bytes=3 * size)

    def work(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(40):
            number = draw.randrange(4)
            adapter = bank.acquire(str(number), files.fetch(number))
            assert adapter.sha256 == str(number)
            bank.release(adapter)

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(work, seed) for seed in range(4)]:
            done.result(WAIT_S)
    stats = bank.stats
    assert (stats.num_in_use, stats.num_loads + stats.num_hits) == (0, 160)
    assert stats.device_bytes == stats.num_resident * size <= 2 * size
    assert stats.host_bytes <= 3 * size
    assert stats.num_loads - stats.num_evictions == stats.num_resident
