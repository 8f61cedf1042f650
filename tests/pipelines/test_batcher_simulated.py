"""What the batcher's policy amounts to over many steps, in a simulated engine."""

from statistics import fmean

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.batcher import FIRST_ROUNDS
from tests.pipelines.simulation import (
    CAPACITY_PER_S,
    MEASURED_MS,
    Request,
    SimulatedEngine,
    best_packing_s,
    makespan_s,
    measured_step_s,
    mixed_requests,
    one_by_one,
    percentile_s,
)

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure


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
