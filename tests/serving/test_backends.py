"""Our engines as a backend: progress goes on, failures keep their code, and the engine is let go of at once."""

import pytest

from models.errors import AdapterError, GenerationError
from pipelines.request import AdapterReport, GenerationResult, Preview, Progress
from serving.backends.base import Order
from serving.backends.gpu import EngineBackend, EngineFailure, read_report
from serving.errors import BackendLost, LeaseLost, Unavailable
from serving.jobs.feed import News
from tests.fakes import FakeEngineLink
from tests.serving.house import a_request

RESULT = GenerationResult(images=(), engine_s=0.5, waited_s=0.0, device_s=0.4)
STEPS = [Progress(1, 2), Progress(2, 2)]
PREVIEW = Preview(0, 1, b"...", "image/jpeg")


def an_order() -> Order:
    return Order("job_1", "alice", a_request(), output_prefix="tenants/alice/generated-images/-/job_1/1-")


async def ignore(_news: News) -> None:
    return


async def test_progress_and_previews_are_told_and_the_result_returned() -> None:
    link = FakeEngineLink([STEPS[0], PREVIEW, STEPS[1], RESULT])
    seen: list[News] = []

    async def on_progress(news: News) -> None:
        seen.append(news)

    backend = EngineBackend("emoji-3d", link)
    assert await backend.make(an_order(), on_progress=on_progress) == RESULT
    assert seen == [STEPS[0], PREVIEW, STEPS[1]]
    assert link.is_closed
    assert (backend.id, backend.model_ids, backend.is_local) == ("engine:emoji-3d", frozenset({"emoji-3d"}), True)


async def test_a_requests_own_failure_keeps_its_code() -> None:
    backend = EngineBackend("emoji-3d", FakeEngineLink([STEPS[0], EngineFailure("out_of_memory", "too large")]))
    with pytest.raises(GenerationError, match="too large") as caught:
        await backend.make(an_order(), on_progress=ignore)
    assert caught.value.code == "out_of_memory"
    assert GenerationError.code == "generation_failed"


async def test_an_answer_without_a_result_is_a_lost_backend() -> None:
    with pytest.raises(BackendLost):
        await EngineBackend("emoji-3d", FakeEngineLink(STEPS)).make(an_order(), on_progress=ignore)


async def test_an_engine_that_dies_on_the_way_is_a_lost_backend() -> None:
    link = FakeEngineLink(STEPS, error=BackendLost("its process died"))
    with pytest.raises(BackendLost, match="its process died"):
        await EngineBackend("emoji-3d", link).make(an_order(), on_progress=ignore)


async def test_the_engine_is_let_go_of_when_the_listener_gives_up() -> None:
    link = FakeEngineLink([*STEPS, RESULT])

    async def lease_is_lost(_news: News) -> None:
        raise LeaseLost("taken over")

    with pytest.raises(LeaseLost):
        await EngineBackend("emoji-3d", link).make(an_order(), on_progress=lease_is_lost)
    assert link.is_closed


@pytest.mark.parametrize("is_ready", [True, False])
async def test_it_is_ready_when_its_engine_is(is_ready: bool) -> None:
    link = FakeEngineLink([])
    link.ready = is_ready
    assert await EngineBackend("emoji-3d", link).is_ready() is is_ready


def test_a_report_on_an_adapter_is_handed_on() -> None:
    report = AdapterReport(num_layers=32, max_rank=8, components=("unet",), num_bytes=1_000)
    assert read_report(report) is report


def test_an_adapter_at_fault_is_told_apart_from_an_engine_that_could_not_look() -> None:
    with pytest.raises(AdapterError, match="no such key"):
        read_report(EngineFailure("bad_adapter", "no such key"))
    with pytest.raises(Unavailable) as caught:
        read_report(EngineFailure("engine_error", "could not run"))
    assert caught.value.code == "engine_error"
