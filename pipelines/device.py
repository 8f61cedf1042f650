"""What differs between a CPU and a CUDA device, in one place: streams, waiting, memory and its end."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from models.errors import GenerationError, OutOfMemory

T = TypeVar("T")


class Side:
    """A stream of its own for one thread that works beside the loop."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def work(self) -> Generator[None, None, None]:
        """What is made inside is complete on leaving, so that another thread may take it."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield
            self._stream.synchronize()


def wait_for(device: torch.device) -> float:
    """Waits until this thread's work on the device is done; the clock then, in seconds."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    return time.perf_counter()


def used_bytes(device: torch.device) -> int:
    """Memory of the device in use by tensors; 0 on a CPU, where nobody counts it."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def free_cache(device: torch.device) -> None:
    """Gives back what the allocator keeps for later, after it ran out."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the machine ran out; the CPU allocator has no error class of its own."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError, OutOfMemory)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def generation_error(error: Exception) -> GenerationError:
    """What went wrong in words for the caller."""
    if isinstance(error, GenerationError):
        return error
    if is_out_of_memory(error):
        return OutOfMemory("The model ran out of memory; a smaller size may fit.")
    if isinstance(error, ValueError):  # an unknown scheduler, or arguments that the family refuses
        return GenerationError(str(error))
    return GenerationError(f"The model failed: {error}")


def run_apart(
    items: Sequence[T],
    work: Callable[[Sequence[T]], None],
    *,
    on_split: Callable[[Sequence[T], Exception], None],
) -> list[tuple[T, Exception]]:
    """`work` on all items; when it raises, on each half by itself, and so on. Gives the items that fail even alone.

    `work` must leave its items as they were when it raises. `on_split` sees every part that failed as a whole.
    """
    failure: Exception | None = None
    try:
        work(items)
    except Exception as error:  # noqa: BLE001 - whatever it is, only the item that causes it may suffer
        failure = error.with_traceback(None)  # whose frames would hold the memory that ran out
    if failure is None:
        return []
    if len(items) == 1:
        return [(items[0], failure)]
    on_split(items, failure)
    middle = len(items) // 2
    return [
        *run_apart(items[:middle], work, on_split=on_split),
        *run_apart(items[middle:], work, on_split=on_split),
    ]
