"""An engine that only counts: the batcher's choices over measured step times, without a tensor or a clock."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import fmean, quantiles

from pipelines.batcher import Budget, Candidate, choose_batch, next_due_s

# Milliseconds of one step of a small model on two CPU cores, by picture width and rows.
ROWS = (1, 2, 4, 8, 16, 32)
MEASURED_MS = {
    64: (9.7, 13.7, 16.2, 22.7, 32.9, 55.9),
    96: (14.2, 16.1, 22.1, 30.7, 52.5, 89.3),
    128: (14.1, 19.2, 26.5, 41.2, 70.8, 132.0),
    192: (20.3, 27.4, 44.0, 72.8, 144.0, 307.0),
}
BUDGET = Budget(max_rows=32, max_px=32 * 192 * 192)


def measured_step_s(width_px: int, height_px: int, rows: int) -> float:
    """Straight lines between the measured figures."""
    points = list(zip(ROWS, MEASURED_MS[width_px], strict=True))
    for (rows_0, ms_0), (rows_1, ms_1) in pairwise(points):
        if rows <= rows_1 or rows_1 == ROWS[-1]:
            return (ms_0 + (ms_1 - ms_0) * (rows - rows_0) / (rows_1 - rows_0)) / 1000
    raise AssertionError("not reached")


@dataclass
class Request:
    """A request in the simulated engine, and what became of it."""

    id: int
    width_px: int
    num_rows: int
    num_steps: int
    arrival_s: float
    steps_done: int = 0
    due_s: float = 0.0
    passed_over: int = 0  # choices since it was last stepped, or came
    most_passed_over: int = 0
    overdue: int = 0  # of those, the choices when it was due already
    most_overdue: int = 0
    first_wait_steps: int | None = None
    device_s: float = 0.0
    end_s: float = 0.0

    @property
    def latency_s(self) -> float:
        return self.end_s - self.arrival_s

    @property
    def alone_s(self) -> float:
        return self.num_steps * measured_step_s(self.width_px, self.width_px, self.num_rows)

    def seen_by_the_batcher(self) -> Candidate:
        progress = self.steps_done / self.num_steps
        return Candidate(self.id, self.width_px, self.width_px, self.num_rows, self.due_s, progress)


@dataclass
class SimulatedEngine:
    """Admits what has arrived, makes the chosen step, and so on; time passes only in steps."""

    arrivals: list[Request]
    now_s: float = 0.0
    active: dict[int, Request] = field(default_factory=dict)
    num_choices: int = 0
    num_newcomers_overtaken: int = 0

    def run(self, until_s: float = float("inf")) -> list[Request]:
        """Every request, once all have ended or the time is over."""
        everyone = sorted(self.arrivals, key=lambda request: request.arrival_s)
        self.arrivals = list(everyone)
        while (self.arrivals or self.active) and self.now_s < until_s:
            if not self.active:
                self.now_s = max(self.now_s, self.arrivals[0].arrival_s)
            while self.arrivals and self.arrivals[0].arrival_s <= self.now_s and len(self.active) < 64:
                request = self.arrivals.pop(0)
                request.due_s = request.arrival_s
                self.active[request.id] = request
            self.step()
        return everyone

    def step(self) -> None:
        candidates = [request.seen_by_the_batcher() for request in self.active.values()]
        batch = [self.active[id] for id in choose_batch(candidates, measured_step_s, BUDGET)]
        self._count(batch)
        rows = sum(request.num_rows for request in batch)
        step_s = measured_step_s(batch[0].width_px, batch[0].width_px, rows)
        self.now_s += step_s
        for request in batch:
            request.steps_done += 1
            request.device_s += step_s / len(batch)
        stepped = [request.seen_by_the_batcher() for request in batch]
        due_s = next_due_s(stepped, num_active=len(self.active), now_s=self.now_s, step_s=measured_step_s)
        for request in batch:
            request.due_s = due_s[request.id]
            if request.steps_done == request.num_steps:
                request.end_s = self.now_s
                del self.active[request.id]

    def _count(self, batch: list[Request]) -> None:
        self.num_choices += 1
        newcomers = [request for request in self.active.values() if request.steps_done == 0]
        if newcomers and all(request.steps_done for request in batch):
            self.num_newcomers_overtaken += 1
        for request in self.active.values():
            request.passed_over += 1
            request.most_passed_over = max(request.most_passed_over, request.passed_over - 1)
            request.overdue += request not in batch and request.due_s <= self.now_s
            request.most_overdue = max(request.most_overdue, request.overdue)
        for request in batch:
            if request.steps_done == 0:
                request.first_wait_steps = request.passed_over - 1
            request.passed_over = request.overdue = 0


def mixed_requests(count: int, seed: int, rate_per_s: float | None = None) -> list[Request]:
    """Half of them guided, 20–35 steps, four sizes; Poisson arrivals, or all at once."""
    rng = random.Random(seed)
    arrival_s = 0.0
    requests = []
    for id in range(count):
        arrival_s += rng.expovariate(rate_per_s) if rate_per_s else 0.0
        width_px = rng.choice(tuple(MEASURED_MS))
        requests.append(Request(id, width_px, rng.choice((1, 2)), rng.randint(20, 35), arrival_s))
    return requests


def one_by_one(requests: Iterable[Request]) -> list[Request]:
    """The same requests served alone, first come first served."""
    served, free_s = [], 0.0
    for request in requests:
        free_s = max(free_s, request.arrival_s) + request.alone_s
        served.append(replace(request, end_s=free_s))
    return served


def makespan_s(requests: Iterable[Request]) -> float:
    return max(request.end_s for request in requests)


def percentile_s(requests: Iterable[Request], percent: int) -> float:
    return quantiles((request.latency_s for request in requests), n=100)[percent - 1]


def best_packing_s(requests: Iterable[Request]) -> float:
    """A plan that knows all in advance: size after size, the longest remaining first, as many as pay."""
    total_s = 0.0
    for width_px in MEASURED_MS:
        left = {request.id: request.num_steps for request in requests if request.width_px == width_px}
        rows = {request.id: request.num_rows for request in requests}
        while left:
            order = sorted(left, key=lambda id: (-left[id], id))
            plans = []
            for count in range(1, len(order) + 1):
                num_rows = sum(rows[id] for id in order[:count])
                if num_rows <= BUDGET.max_rows:
                    seconds = measured_step_s(width_px, width_px, num_rows)
                    plans.append((num_rows / seconds, count, seconds))
            _, count, seconds = max(plans)
            total_s += seconds
            for id in order[:count]:
                left[id] -= 1
                if not left[id]:
                    del left[id]
    return total_s


CAPACITY_PER_S = 1 / fmean(
    27.5 * measured_step_s(width_px, width_px, num_rows) for width_px in MEASURED_MS for num_rows in (1, 2)
)
