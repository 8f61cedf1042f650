"""The loop waits for a newcomer that is all but ready, and for nobody else; it charges everybody's share of a step."""

import threading
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from pipelines import loop as loop_module
from pipelines.batcher import Budget
from pipelines.families.base import Family, StepOutcome
from pipelines.loop import StepLoop
from pipelines.meter import EngineMeter
from pipelines.preparing import Ready
from pipelines.request import GenerationRequest
from pipelines.sample import Order, Sample, TextEmbedding
from pipelines.step_times import StepTimes
from pipelines.ticket import Ticket
from tests.pipelines.mixed import wait_until

DEADLINE_S = 20.0
REQUEST = GenerationRequest("m", "long", "", 16, 16, 1, 5, 3, 1.0)
TEXT = TextEmbedding(torch.zeros(1, 1))


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


class FakeFamily:
    """Makes a step when it is let, and remembers who shared it. A step takes a second of its clock."""

    device = torch.device("cpu")
    denoiser = SimpleNamespace(rows_run=lambda num_rows: num_rows)

    def __init__(self) -> None:
        self.steps: list[list[Sample]] = []
        self.may_step = threading.Semaphore(0)
        self.clock = Clock()
        self.max_samples = 8  # more do not fit into its memory

    def step(self, samples: Sequence[Sample]) -> StepOutcome:
        self.steps.append(list(samples))
        assert self.may_step.acquire(timeout=DEADLINE_S)
        self.clock.now_s += 1.0
        if len(samples) > self.max_samples:
            raise torch.OutOfMemoryError("CUDA out of memory")
        for sample in samples:
            sample.step += 1
        return StepOutcome(0.01, {})


class Bench:
    def __init__(self) -> None:
        self.family = FakeFamily()
        self.finished: list[Sample] = []
        self.loop = StepLoop(
            cast(Family, self.family),
            StepTimes({}),
            Budget(max_rows=8, max_px=10**6),
            show=lambda _sample, _ready: None,
            finish=lambda sample, _ready: self.finished.append(sample),
            let_go=lambda _ready: None,
            meter=EngineMeter(),
        )

    def deliver(self, ticket: Ticket | None = None, *, is_guided: bool = False) -> Sample:
        order = Order(REQUEST, 0, TEXT, TEXT if is_guided else None)
        sample = Sample(order, torch.zeros(1), None, torch.arange(3), torch.Generator())
        self.loop.deliver(sample, Ready(ticket or new_ticket(), (), None, None))
        return sample

    def until_step(self, number: int) -> None:
        wait_until(lambda: len(self.family.steps) >= number, f"step {number}")


def new_ticket() -> Ticket:
    return Ticket(REQUEST, lambda _event: None)


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Not yet at work: what is delivered before it is opened shares the first step."""
    made = Bench()
    monkeypatch.setattr(loop_module, "time", made.family.clock)
    yield made
    made.family.may_step.release(1_000)
    made.loop.close()


@pytest.fixture
def bench(unopened: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    # As long as a test may want; what is waited for ends it earlier.
    monkeypatch.setattr(loop_module, "MAX_WAIT_SHARE", DEADLINE_S / 0.01)
    unopened.loop.open()
    return unopened


def in_mid_step(bench: Bench) -> Sample:
    """One sample in its first step; the loop goes on when it is let."""
    running = bench.deliver()
    bench.until_step(1)
    return running


def test_newcomer_that_is_being_started_shares_the_very_next_step(bench: Bench) -> None:
    running = in_mid_step(bench)
    bench.loop.expect(True)
    bench.family.may_step.release()
    newcomer = bench.deliver()
    bench.until_step(2)
    assert bench.family.steps[1] == [running, newcomer]


@pytest.mark.parametrize("told", [[], [True, False]], ids=["nobody announced", "announced, but could not be started"])
def test_loop_goes_on_when_nobody_comes(bench: Bench, told: list[bool]) -> None:
    running = in_mid_step(bench)
    for is_coming in told:
        bench.loop.expect(is_coming)
    bench.family.may_step.release()
    bench.until_step(2)
    assert bench.family.steps[1] == [running]


def test_loop_is_woken_when_the_announced_one_could_not_be_started(bench: Bench) -> None:
    in_mid_step(bench)
    bench.loop.expect(True)
    bench.family.may_step.release()
    threading.Timer(0.05, lambda: bench.loop.expect(False)).start()
    bench.until_step(2)


def test_group_is_waited_for_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    changed: Any = bench.loop._changed
    wait: Callable[[float], bool] = changed.wait
    in_mid_step(bench)
    monkeypatch.setattr(changed, "wait", lambda timeout: waits.append(timeout) or wait(0))
    bench.loop.expect(True)
    bench.family.may_step.release(3)
    wait_until(lambda: bool(bench.finished), "its last step")
    assert len([timeout for timeout in waits if timeout == DEADLINE_S]) == 1


def test_four_samples_in_a_batch_are_charged_a_quarter_of_every_step(unopened: Bench) -> None:
    tickets = [new_ticket() for _ in range(4)]
    for ticket in tickets:
        unopened.deliver(ticket)
    unopened.family.may_step.release(3)
    unopened.loop.open()
    wait_until(lambda: len(unopened.finished) == 4, "their last step")
    assert [ticket.device_s for ticket in tickets] == [0.75] * 4
    assert unopened.family.clock.now_s == 3.0


def test_a_sample_with_guidance_is_charged_for_both_its_rows(unopened: Bench) -> None:
    guided, plain = new_ticket(), new_ticket()
    unopened.deliver(guided, is_guided=True)
    unopened.deliver(plain)
    unopened.family.may_step.release(3)
    unopened.loop.open()
    wait_until(lambda: len(unopened.finished) == 2, "their last step")
    assert (guided.device_s, plain.device_s) == (pytest.approx(2.0), pytest.approx(1.0))


def test_what_is_charged_is_all_that_was_run_even_what_did_not_fit_and_what_was_cancelled(unopened: Bench) -> None:
    unopened.family.max_samples = 2
    tickets = [new_ticket() for _ in range(5)]
    for ticket in tickets:
        unopened.deliver(ticket)
    unopened.loop.open()
    unopened.until_step(1)
    tickets[0].cancel()
    unopened.family.may_step.release(1_000)
    wait_until(lambda: len(unopened.finished) == 4, "the last step of the others")
    assert len(unopened.family.steps) > 3
    assert sum(ticket.device_s for ticket in tickets) == pytest.approx(unopened.family.clock.now_s)
    assert tickets[0].device_s > 0, "it was in the step that was under way"
