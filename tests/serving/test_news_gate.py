"""Which of an engine's events become messages between processes."""

import pytest

from models.errors import NotFinite
from pipelines.request import GenerationResult, Preview, Progress
from serving.backends.gpu import EngineFailure
from serving.replicas import engine as engine_module
from serving.replicas.engine import NEWS_PERIOD_S, NewsGate


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as a list of one."""
    now = [100.0]
    monkeypatch.setattr(engine_module.time, "perf_counter", lambda: now[0])
    return now


def preview(image_index: int, partial_index: int | None = None) -> Preview:
    return Preview(image_index, 5, b"jpeg", "image/jpeg", partial_index)


def test_progress_passes_once_a_period_and_not_in_the_first(clock: list[float]) -> None:
    gate = NewsGate()
    assert gate.worth_telling(Progress(1, 9)) is None
    clock[0] += NEWS_PERIOD_S
    assert gate.worth_telling(Progress(2, 9)) == Progress(2, 9)
    assert gate.worth_telling(Progress(3, 9)) is None
    clock[0] += NEWS_PERIOD_S
    assert gate.worth_telling(Progress(4, 9)) == Progress(4, 9)


def test_pictures_that_step_together_are_all_seen(clock: list[float]) -> None:
    gate = NewsGate()
    clock[0] += NEWS_PERIOD_S
    assert [gate.worth_telling(preview(index)) is not None for index in (0, 1, 0, 1)] == [True, True, False, False]


def test_partial_images_and_the_end_always_pass(clock: list[float]) -> None:
    gate = NewsGate()
    result = GenerationResult((), 0.1, 0.0, 0.1)
    assert gate.worth_telling(preview(0, partial_index=1)) == preview(0, partial_index=1)
    assert gate.worth_telling(result) is result
    failure = gate.worth_telling(NotFinite("no numbers"))
    assert isinstance(failure, EngineFailure)
    assert (failure.code, failure.message) == ("not_finite", "no numbers")
