"""The loop waits for a newcomer that is all but ready, and for nobody else."""

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


class FakeFamily:
    """Makes a step when it is let, and remembers who shared it."""

    device = torch.device("cpu")
    denoiser = SimpleNamespace(rows_run=lambda num_rows: num_rows)

    def __init__(self) -> None:
        self.steps: list[list[Sample]] = []
        self.may_step = threading.Semaphore(0)

    def step(self, samples: Sequence[Sample]) -> StepOutcome:
        self.steps.append(list(samples))
        assert self.may_step.acquire(timeout=DEADLINE_S)
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
        self.loop.open()

    def deliver(self) -> Sample:
        order = Order(REQUEST, 0, TEXT, None)
        sample = Sample(order, torch.zeros(1), None, torch.arange(3), torch.Generator())
        self.loop.deliver(sample, Ready(Ticket(REQUEST, lambda _event: None), (), None, None))
        return sample

    def until_step(self, number: int) -> None:
        wait_until(lambda: len(self.family.steps) >= number, f"step {number}")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    # As long as a test may want; what is waited for ends it earlier.
    monkeypatch.setattr(loop_module, "MAX_WAIT_SHARE", DEADLINE_S / 0.01)
    made = Bench()
    yield made
    made.family.may_step.release(1_000)
    made.loop.close()


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
