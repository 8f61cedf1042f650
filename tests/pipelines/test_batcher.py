"""The batcher's policy: what holds for every choice."""

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.batcher import (
    MAX_THROUGHPUT_LOSS,
    Budget,
    Candidate,
    StepSeconds,
    choose_batch,
    next_due_s,
)
from tests.pipelines.simulation import BUDGET, measured_step_s


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
    batch = choose_batch(waiting_together(32), overhead_and_rows(0.01, 0.1), BUDGET)
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
