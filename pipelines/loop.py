"""StepLoop: the engine's heart. The batch is chosen anew at every denoising step.

    while True:
        admit()       # samples that were started beside the loop
        choose()      # who advances together: one size, anything else may differ
        step()        # one forward pass for all rows, then each sample's own scheduler step
        finish()      # whoever is done goes to be decoded, beside the loop

A request's pixels depend on its own fields alone, whatever shares its batches: every sample owns its latents, its
scheduler and its random generator, and the rows of a forward pass do not look at each other.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog
import torch

from pipelines.batcher import Budget, Candidate, choose_batch, next_due_s
from pipelines.device import free_cache, generation_error, is_out_of_memory, run_apart
from pipelines.families.base import Family
from pipelines.meter import EngineMeter
from pipelines.preparing import WAIT_S, Ready
from pipelines.sample import Sample
from pipelines.step_times import StepTimes

log = structlog.get_logger("darkroom.engine")

MAX_WAIT_SHARE = 0.3  # of a step, for somebody whose text is being encoded
Taker = Callable[[Sample, Ready], None]


@dataclass(slots=True, eq=False)
class Active:
    """A sample in the loop."""

    id: int  # grows with arrival
    sample: Sample
    ready: Ready
    due_s: float  # when its next step is due

    @property
    def adapters(self) -> list[tuple[str, float]]:
        return [(adapter.sha256, scale) for adapter, scale in self.sample.order.loras]

    def as_candidate(self) -> Candidate:
        sample = self.sample
        progress = sample.step / sample.num_steps
        return Candidate(self.id, sample.width_px, sample.height_px, sample.num_rows, self.due_s, progress)


class StepLoop:
    """Steps samples in a thread of its own, from deliver() to `finish`; `show` sees them after every other step."""

    def __init__(
        self,
        family: Family,
        times: StepTimes,
        budget: Budget,
        *,
        show: Taker,
        finish: Taker,
        let_go: Callable[[Ready], None],
        meter: EngineMeter,
    ) -> None:
        """`let_go` is told of every sample that leaves the loop unfinished."""
        self._family = family
        self._times = times
        self._budget = budget
        self._show = show
        self._finish_sample = finish
        self._let_go = let_go
        self._meter = meter
        self._arrived: deque[Active] = deque()
        self._active: dict[int, Active] = {}
        self._num_arrived = 0
        self._changed = threading.Condition()
        self._is_expecting = False
        self._last_step_s = 0.0
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="step-loop", daemon=True)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def num_active(self) -> int:
        """Samples between their start and their last step."""
        return len(self._active) + len(self._arrived)

    @property
    def budget(self) -> Budget:
        """What a batch may hold, as far as is known by now."""
        return self._budget

    def open(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends after the step at hand."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def deliver(self, sample: Sample, ready: Ready) -> None:
        """From another thread: a sample that is ready for its first step, and due for it now."""
        with self._changed:
            self._num_arrived += 1
            self._arrived.append(Active(self._num_arrived, sample, ready, due_s=time.perf_counter()))
            self._changed.notify_all()

    def expect(self, is_coming: bool) -> None:
        """From another thread: samples are being started this moment, or no longer."""
        with self._changed:
            self._is_expecting = is_coming
            self._changed.notify_all()

    # In the loop's own thread.

    def _run(self) -> None:
        with torch.inference_mode():
            while self._wait_for_work():
                began_s = time.perf_counter()
                self._admit()
                if batch := self._choose():
                    forward_s = self._step(batch)
                    self._finish(batch)
                    self._account(batch, forward_s, time.perf_counter() - began_s)
                del batch  # while it waits for more, their memory is free

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not (self._is_closed or self._active or self._arrived):
                self._changed.wait(WAIT_S)
        return not self._is_closed

    def _admit(self) -> None:
        with self._changed:
            # Who is all but ready would otherwise watch a whole step go by. Once for every group that is started.
            if self._is_expecting and not self._arrived:
                self._changed.wait(MAX_WAIT_SHARE * self._last_step_s)
            self._is_expecting = False
        while self._arrived:
            active = self._arrived.popleft()
            self._active[active.id] = active
        for active in [active for active in self._active.values() if active.ready.ticket.is_over]:
            self._drop(active)

    def _choose(self) -> list[Active]:
        candidates = [active.as_candidate() for active in self._active.values()]
        batch = [self._active[number] for number in choose_batch(candidates, self._step_s, self._budget)]
        # Neighbours with the same adapters share what is gathered for them, and one order finds it again next time.
        return sorted(batch, key=lambda active: (active.adapters, active.id))

    def _step(self, batch: Sequence[Active]) -> float:
        """One step for the whole batch, or, where that fails, for its parts; seconds inside the denoiser."""
        forward_s = 0.0

        def step(part: Sequence[Active]) -> None:
            nonlocal forward_s
            began_s = time.perf_counter()
            try:
                outcome = self._family.step([active.sample for active in part])
            finally:  # what failed has kept the device busy all the same
                _charge(part, time.perf_counter() - began_s)
            forward_s += outcome.forward_s
            self._times.observe(*_size(part), self._family.denoiser.rows_run(_num_rows(part)), outcome.forward_s)
            for active in part:
                if (error := outcome.failures.get(active.sample)) is not None:
                    self._fail(active, error)

        def learn(part: Sequence[Active], error: Exception) -> None:
            if is_out_of_memory(error):
                free_cache(self._family.device)
                self.shrink_budget(_num_rows(part) * _size(part)[0] * _size(part)[1])
            self._meter.batch_split(type(error).__name__)

        for active, error in run_apart(batch, step, on_split=learn):
            self._fail(active, error)
        return forward_s

    def _finish(self, batch: Sequence[Active]) -> None:
        stepped = [active for active in batch if active.id in self._active]
        if not stepped:
            return
        candidates = [active.as_candidate() for active in stepped]
        now_s = time.perf_counter()
        due_s = next_due_s(candidates, num_active=len(self._active), now_s=now_s, step_s=self._step_s)
        for active in stepped:
            sample, ready = active.sample, active.ready
            active.due_s = due_s[active.id]
            ready.ticket.step(sample.order.image_index, sample.step)
            if sample.is_done:
                del self._active[active.id]
                self._finish_sample(sample, ready)
            else:
                self._show(sample, ready)

    def _account(self, batch: Sequence[Active], forward_s: float, loop_s: float) -> None:
        self._last_step_s = forward_s
        self._meter.stepped(_num_rows(batch), len(batch), forward_s, loop_s - forward_s)

    def _fail(self, active: Active, error: Exception) -> None:
        active.ready.ticket.fail(generation_error(error))
        self._drop(active)

    def _drop(self, active: Active) -> None:
        del self._active[active.id]
        self._let_go(active.ready)

    def _step_s(self, width_px: int, height_px: int, num_rows: int) -> float:
        return self._times(width_px, height_px, self._family.denoiser.rows_run(num_rows))

    def shrink_budget(self, num_px: int) -> None:
        """A batch of so many pixels did not fit, which teaches how many do."""
        self._budget = replace(self._budget, max_px=min(self._budget.max_px, max(1, num_px // 2)))
        log.warning("batch did not fit into memory", num_px=num_px, max_px=self._budget.max_px)


def _charge(batch: Sequence[Active], device_s: float) -> None:
    """Each sample's share of a step is its share of the rows, which are all of one size."""
    for active in batch:
        active.ready.ticket.charge(device_s * active.sample.num_rows / _num_rows(batch))


def _size(batch: Sequence[Active]) -> tuple[int, int]:
    return batch[0].sample.width_px, batch[0].sample.height_px


def _num_rows(batch: Sequence[Active]) -> int:
    return sum(active.sample.num_rows for active in batch)
