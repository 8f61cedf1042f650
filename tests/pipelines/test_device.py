"""Work that fails is tried again in halves; what went wrong has a name."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.errors import GenerationError, NotFinite, OutOfMemory
from pipelines.device import Side, generation_error, is_out_of_memory, run_apart, used_bytes, wait_for

CPU = torch.device("cpu")


class Worker:
    """Refuses parts that hold a bad item, or too many."""

    def __init__(self, bad: set[int], max_items: int = 1_000) -> None:
        self.bad, self.max_items = bad, max_items
        self.done: list[int] = []
        self.splits: list[int] = []

    def __call__(self, items: "list[int]") -> None:
        if len(items) > self.max_items:
            raise torch.OutOfMemoryError("too many")
        if self.bad & set(items):
            raise ValueError(f"bad: {items}")
        self.done += items

    def on_split(self, items: "list[int]", error: Exception) -> None:
        self.splits.append(len(items))

    def run(self, items: "list[int]") -> "dict[int, Exception]":
        return dict(run_apart(items, self, on_split=self.on_split))


@given(st.integers(1, 40), st.sets(st.integers(0, 39)))
def test_only_bad_items_fail_and_every_other_one_is_done_once(num_items: int, bad: set[int]) -> None:
    worker, items = Worker(bad), list(range(num_items))
    failures = worker.run(items)
    assert set(failures) == bad & set(items)
    assert worker.done == [item for item in items if item not in bad]


def test_what_succeeds_at_once_is_not_split() -> None:
    worker = Worker(set())
    assert worker.run([1, 2, 3]) == {}
    assert worker.splits == []


def test_too_large_a_batch_is_halved_until_it_fits() -> None:
    worker = Worker(set(), max_items=2)
    assert worker.run(list(range(8))) == {}
    assert worker.done == list(range(8))
    assert worker.splits == [8, 4, 4]


def test_a_failure_holds_no_frames_and_so_no_memory() -> None:
    (error,) = Worker({1}).run([1]).values()
    assert error.__traceback__ is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), OutOfMemory),
        (MemoryError(), OutOfMemory),
        (RuntimeError("shapes do not match"), GenerationError),
        (ValueError("scheduler 'x' is not one of this model's"), GenerationError),
    ],
)
def test_errors_become_ours(error: Exception, kind: type[GenerationError]) -> None:
    assert type(generation_error(error)) is kind
    assert is_out_of_memory(error) == (kind is OutOfMemory)


def test_our_own_errors_stay_as_they_are_and_the_callers_mistakes_keep_their_words() -> None:
    error = NotFinite("no picture")
    assert generation_error(error) is error
    assert str(generation_error(ValueError("raise either"))) == "raise either"


def test_a_cpu_has_no_streams_and_counts_no_memory() -> None:
    with Side(CPU).work():
        assert used_bytes(CPU) == 0
    assert wait_for(CPU) <= wait_for(CPU)
