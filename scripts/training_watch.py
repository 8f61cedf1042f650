"""When the steps of a training begin and end, and what the process has used. Knows no training."""

import resource
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

KIB = 1024


@dataclass(frozen=True, slots=True)
class Taken:
    """What one job took."""

    samples_per_s: float  # once it was warm
    job_s: float  # all of it: load, encode, learn, save
    first_step_s: float  # from nothing to the end of the first step
    peak_bytes: int  # on a GPU of its memory, else of the process
    cpu_s: float  # of all the process's threads

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Watch:
    """Asked to note moments by the arm it watches. It waits for the device thrice, so that no step waits for it."""

    def __init__(self, device: torch.device, *, batch_size: int, warm_up_steps: int) -> None:
        self._device, self._batch_size, self._warm_up_steps = device, batch_size, warm_up_steps
        self._num_begun = 0
        self._first_s = self._warm_s = self._learned_s = 0.0
        self._cpu_before_s = time.process_time()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._started_s = time.perf_counter()

    def step(self) -> None:
        """A step begins."""
        self._num_begun += 1
        if self._num_begun == 2:
            self._first_s = self._now_s()
        if self._num_begun == self._warm_up_steps + 1:
            self._warm_s = self._now_s()

    def learned(self) -> None:
        """The last step has ended; said again, it means nothing."""
        if not self._learned_s:
            self._learned_s = self._now_s()

    def taken(self) -> Taken:
        """The job is done."""
        job_s = self._now_s() - self._started_s
        num_steady = self._num_begun - self._warm_up_steps
        assert num_steady > 0 and self._learned_s and self._first_s, "there were steps, and they have ended"
        is_cuda = self._device.type == "cuda"
        return Taken(
            samples_per_s=num_steady * self._batch_size / (self._learned_s - self._warm_s),
            job_s=job_s,
            first_step_s=self._first_s - self._started_s,
            peak_bytes=(
                torch.cuda.max_memory_allocated(self._device)
                if is_cuda
                else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
            ),
            cpu_s=time.process_time() - self._cpu_before_s,
        )

    def _now_s(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
