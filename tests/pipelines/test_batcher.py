"""The batcher's policy: what holds for every choice, and what it amounts to in a simulated engine."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import fmean, quantiles

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.batcher import (
    FIRST_ROUNDS,
    MAX_THROUGHPUT_LOSS,
    Budget,
    Candidate,
    StepSeconds,
    choose_batch,
    next_due_s,
)

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


def overhead_and_rows(overhead_s: float, row_s: float) -> StepSeconds:
    return lambda width_px, height_px, rows: overhead_s + row_s * rows * (width_px * height_px) / 64**2


untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
step_time_functions = st.one_of(
    st.just(measured_step_s),
    st.builds(overhead_and_rows, st.floats(0, 0.1), st.floats(1e-4, 0.1)),
    st.just(lambda width_px, height_px, rows: 0.01 * (1 << (rows - 1).bit_length())),  # padded to powers of two
)
sizes = st.sampled_from([(64, 64), (96, 96), (128, 128), (192, 192)])
budgets = st.builds(Budget, max_rows=st.integers(1, 40), max_px=st.integers(64 * 64, 40 * 192 * 192))


@st.composite
def candidate_lists(draw, min_size: int = 0) -> list[Candidate]:
    ids = draw(st.lists(st.integers(0, 10_000), unique=True, min_size=min_size, max_size=40))
    dues_s = st.floats(0, 100) | st.sampled_from([1.0, 2.0])
    shapes = [(*draw(sizes), draw(st.integers(1, 2)), draw(dues_s)) for _ in ids]
    return [Candidate(id, *shape) for id, shape in zip(ids, shapes, strict=True)]


def chosen(candidates: Sequence[Candidate], step_s: StepSeconds, budget: Budget) -> list[Candidate]:
    by_id = {candidate.id: candidate for candidate in candidates}
    return [by_id[id] for id in choose_batch(candidates, step_s, budget)]


def due_first(candidates: Sequence[Candidate]) -> Candidate:
    return min(candidates, key=lambda candidate: (candidate.due_s, candidate.id))


# What holds for every choice


@untimed
@given(candidate_lists(min_size=1), step_time_functions, budgets)
def test_batch_is_within_the_budget_unless_one_sample_alone_exceeds_it(candidates, step_s, budget) -> None:
    batch = chosen(candidates, step_s, budget)
    rows = sum(candidate.num_rows for candidate in batch)
    px = rows * batch[0].width_px * batch[0].height_px
    assert len(batch) == 1 or (rows <= budget.max_rows and px <= budget.max_px)


@untimed
@given(candidate_lists(min_size=1), step_time_functions, budgets)
def test_batch_holds_one_size_no_duplicates_and_the_sample_that_is_due_first(candidates, step_s, budget) -> None:
    batch = chosen(candidates, step_s, budget)
    assert len({(candidate.width_px, candidate.height_px) for candidate in batch}) == 1
    assert len({candidate.id for candidate in batch}) == len(batch)
    assert batch[0] == due_first(candidates)


@untimed
@given(candidate_lists(min_size=1), step_time_functions, budgets, st.randoms())
def test_choice_does_not_depend_on_the_order_of_the_candidates(candidates, step_s, budget, rng) -> None:
    shuffled = list(candidates)
    rng.shuffle(shuffled)
    assert choose_batch(iter(shuffled), step_s, budget) == choose_batch(candidates, step_s, budget)


@untimed
@given(candidate_lists(min_size=1), step_time_functions, budgets)
def test_who_stays_out_is_due_later_than_who_of_its_size_goes(candidates, step_s, budget) -> None:
    batch = chosen(candidates, step_s, budget)
    left = [c for c in candidates if c not in batch and c.width_px == batch[0].width_px]
    assert all((out.due_s, out.id) > (goes.due_s, goes.id) for out in left for goes in batch)


@untimed
@given(candidate_lists(min_size=1), step_time_functions, budgets)
def test_throughput_is_near_the_best_that_the_waiting_rows_allow(candidates, step_s, budget) -> None:
    batch = chosen(candidates, step_s, budget)
    group = sorted(
        (c for c in candidates if c.width_px == batch[0].width_px),
        key=lambda candidate: (candidate.due_s, candidate.id),
    )

    def rows_per_s(num_samples: int) -> float:
        rows = sum(candidate.num_rows for candidate in group[:num_samples])
        fits = num_samples == 1 or (rows <= budget.max_rows and rows * group[0].width_px ** 2 <= budget.max_px)
        return rows / step_s(group[0].width_px, group[0].height_px, rows) if fits else 0.0

    best = max(rows_per_s(num_samples) for num_samples in range(1, len(group) + 1))
    assert rows_per_s(len(batch)) >= (1 - MAX_THROUGHPUT_LOSS) * best * (1 - 1e-9)


def test_no_candidates_make_no_batch() -> None:
    assert choose_batch([], measured_step_s, BUDGET) == ()


def waiting_together(count: int) -> list[Candidate]:
    return [Candidate(id, 64, 64, 1, due_s=0.0) for id in range(count)]


def test_where_packing_gains_nothing_a_sample_goes_alone() -> None:
    assert choose_batch(waiting_together(8), overhead_and_rows(0.0, 0.1), BUDGET) == (0,)


def test_where_packing_gains_little_a_short_step_is_preferred_to_a_full_one() -> None:
    batch = choose_batch(waiting_together(32), overhead_and_rows(0.02, 0.1), BUDGET)
    assert 4 <= len(batch) <= 8


def test_where_overhead_rules_all_go_together() -> None:
    assert len(choose_batch(waiting_together(32), overhead_and_rows(0.1, 0.01), BUDGET)) >= 24


def test_rows_that_lengthen_no_step_ride_along() -> None:
    def padded_s(width_px: int, height_px: int, rows: int) -> float:
        return float(-(-rows // 40))

    # 39 rows would be near enough to the best; the fortieth costs nothing.
    assert len(choose_batch(waiting_together(50), padded_s, Budget(max_rows=50, max_px=10**9))) == 40


def test_newcomer_goes_next_when_nobody_was_due_before_it_came() -> None:
    running = [Candidate(id, 192, 192, 2, due_s=5.0 + id, progress=0.5) for id in range(40)]
    newcomer = Candidate(99, 64, 64, 1, due_s=4.9)
    assert choose_batch([*running, newcomer], measured_step_s, BUDGET) == (99,)


def test_who_went_early_is_due_a_little_after_who_had_to_wait() -> None:
    batch = [Candidate(1, 64, 64, 2, due_s=3.0, progress=0.5), Candidate(2, 64, 64, 1, due_s=9.0, progress=0.5)]
    due_s = next_due_s(batch, num_active=10, now_s=4.0, step_s=measured_step_s)
    assert 4.0 < due_s[1] < due_s[2] < due_s[1] + (9.0 - 4.0) / 2


def test_what_is_nearly_done_is_due_sooner() -> None:
    batch = [Candidate(1, 64, 64, 1, due_s=0.0, progress=0.1), Candidate(2, 64, 64, 1, due_s=0.0, progress=0.9)]
    due_s = next_due_s(batch, num_active=10, now_s=1.0, step_s=measured_step_s)
    assert 1.0 < due_s[2] < due_s[1]


@untimed
@given(candidate_lists(min_size=1), step_time_functions)
def test_less_time_is_promised_than_there_is(candidates, step_s) -> None:
    batch = [replace(c, width_px=64, height_px=64, progress=(c.id % 101) / 100, due_s=0.0) for c in candidates]
    due_s = next_due_s(batch, num_active=len(batch), now_s=0.0, step_s=step_s)
    cost_s = step_s(64, 64, sum(candidate.num_rows for candidate in batch)) / len(batch)
    assert sum(cost_s / due_s[candidate.id] for candidate in batch) <= 0.8 + 1e-9


# What the policy amounts to


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


@pytest.mark.parametrize("seed", range(4))
def test_burst_of_mixed_sizes_is_packed_nearly_as_well_as_can_be(seed) -> None:
    requests = mixed_requests(64, seed)
    alone_s, best_s = makespan_s(one_by_one(requests)), best_packing_s(requests)
    burst_s = makespan_s(SimulatedEngine(requests).run())
    assert burst_s <= best_s / 0.9
    assert alone_s / burst_s >= 2


def test_under_load_latency_is_a_fraction_of_one_by_one() -> None:
    ratios = []
    for seed in range(4):
        requests = mixed_requests(600, seed, 0.9 * CAPACITY_PER_S)
        alone = one_by_one(requests)
        served = SimulatedEngine(requests).run()
        ratios.append([percentile_s(served, percent) / percentile_s(alone, percent) for percent in (50, 95)])
    p50, p95 = (fmean(column) for column in zip(*ratios, strict=True))
    assert p50 <= 0.55
    assert p95 <= 0.55


@pytest.mark.parametrize("load", [0.5, 0.9, 1.2])
def test_under_load_no_running_sample_overtakes_a_newcomer(load) -> None:
    engine = SimulatedEngine(mixed_requests(600, 7, load * CAPACITY_PER_S))
    served = engine.run()
    assert engine.num_newcomers_overtaken == 0
    # More than none only where newcomers of several sizes came during one step.
    assert max(request.first_wait_steps for request in served) <= len(MEASURED_MS) - 1


@settings(untimed, max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from([*MEASURED_MS]), st.integers(1, 2), st.integers(10, 40)), min_size=1, max_size=20
    ),
    st.sampled_from([*MEASURED_MS]),
    st.floats(0.0, 1.0),
)
def test_lone_newcomer_gets_its_first_step_next(running, width_px, moment) -> None:
    requests = [Request(id, *shape, arrival_s=0.0) for id, shape in enumerate(running)]
    arrival_s = moment * sum(request.alone_s for request in requests) / 3
    newcomer = Request(1000, width_px, 1, 4, arrival_s)
    # While a burst takes its first steps it is not alone in being new; later it is.
    first_round_s = sum(measured_step_s(r.width_px, r.width_px, r.num_rows) for r in requests)
    newcomer.arrival_s += first_round_s
    SimulatedEngine([*requests, newcomer]).run()
    assert newcomer.first_wait_steps == 0


@pytest.mark.parametrize("starved_px", [64, 192])
def test_endless_stream_of_newcomers_starves_nobody(starved_px) -> None:
    stream_px = 64 if starved_px == 192 else 192
    # A fresh one-step request waits at every choice: each of them is new, and due when it comes.
    arrivals = [0.5 * id * measured_step_s(stream_px, stream_px, 1) for id in range(1, 40_000)]
    stream = [Request(id, stream_px, 1, 1, arrival_s) for id, arrival_s in enumerate(arrivals, start=1)]
    old = Request(0, starved_px, 2, 25, 0.0)
    SimulatedEngine([old, *stream]).run(until_s=60.0)
    assert old.steps_done == old.num_steps
    # Each step was due within FIRST_ROUNDS rounds of at most 64 samples, and then at most those due before it went.
    most_rounds_s = FIRST_ROUNDS * 64 * measured_step_s(starved_px, starved_px, 2)
    assert old.most_passed_over <= most_rounds_s / measured_step_s(stream_px, stream_px, 1) + 64


@settings(untimed, max_examples=30)
@given(st.integers(0, 2**32), st.floats(0.3, 3.0))
def test_nobody_waits_longer_than_to_its_due_moment_and_one_turn_of_those_before_it(seed, load) -> None:
    engine = SimulatedEngine(mixed_requests(120, seed, load * CAPACITY_PER_S))
    served = engine.run()
    assert max(request.most_overdue for request in served) < 64


def test_equal_samples_get_equal_shares_of_the_device() -> None:
    requests = [Request(id, 64, 1, 10**6, 0.0) for id in range(50)]
    SimulatedEngine(requests).run(until_s=20.0)
    shares_s = [request.device_s for request in requests]
    assert min(shares_s) >= 0.95 * max(shares_s)


def test_small_and_large_pictures_are_slowed_down_alike() -> None:
    served = SimulatedEngine(mixed_requests(1500, 3, 0.9 * CAPACITY_PER_S)).run()
    slowdowns = []
    for width_px in MEASURED_MS:
        of_size = [request for request in served if request.width_px == width_px]
        slowdowns.append(sum(r.latency_s for r in of_size) / sum(r.alone_s for r in of_size))
    assert max(slowdowns) <= 1.4 * min(slowdowns)


def test_large_picture_beside_an_endless_run_of_small_ones_is_not_forgotten() -> None:
    small = [Request(id, 64, 1, 20, arrival_s=0.2 * id) for id in range(1, 200)]
    large = Request(0, 192, 2, 25, 0.0)
    SimulatedEngine([large, *small]).run()
    fair_s = 2 * large.alone_s
    assert large.latency_s <= 5 * fair_s


def test_size_that_fell_apart_comes_together_again() -> None:
    staggered = [Request(id, 64, 1, 400, arrival_s=0.05 * id) for id in range(8)]
    others = [Request(100 + id, 192, 1, 400, 0.0) for id in range(4)]
    engine = SimulatedEngine([*staggered, *others])
    engine.run(until_s=1.0)
    before = [request.steps_done for request in staggered]
    engine.arrivals = []
    while engine.now_s < 3.0:
        engine.step()
    gained = [request.steps_done - earlier for request, earlier in zip(staggered, before, strict=True)]
    assert max(gained) == min(gained) > 10
