"""A ticket tells its listener everything in order, and exactly one final event."""

import threading

import pytest

from models.errors import GenerationCancelled, GenerationError
from pipelines.request import GeneratedImage, GenerationRequest, GenerationResult, Preview, Progress
from pipelines.ticket import EngineEvent, Ticket

REQUEST = GenerationRequest(
    model_id="m",
    prompt="a",
    negative_prompt="",
    width_px=8,
    height_px=8,
    num_images=2,
    seed=5,
    num_inference_steps=4,
    guidance_scale=1.0,
)
PREVIEW = Preview(0, 1, b"jpeg", "image/jpeg")


def image(seed: int) -> GeneratedImage:
    return GeneratedImage(b"png", "image/png", 8, 8, seed, "0" * 64)


@pytest.fixture
def events() -> list[EngineEvent]:
    return []


@pytest.fixture
def ticket(events: list[EngineEvent]) -> Ticket:
    return Ticket(REQUEST, events.append)


def test_the_result_comes_with_the_last_picture_in_the_order_asked_for(
    ticket: Ticket, events: list[EngineEvent]
) -> None:
    ticket.start(4)
    ticket.keep(1, image(6))
    assert events == []
    assert not ticket.is_over
    ticket.keep(0, image(5))
    (result,) = events
    assert isinstance(result, GenerationResult)
    assert [it.seed for it in result.images] == [5, 6]
    assert ticket.is_over


def test_progress_is_counted_over_all_images(ticket: Ticket, events: list[EngineEvent]) -> None:
    ticket.start(4)
    for image_index, steps_done in ((0, 1), (1, 1), (0, 2), (0, 3), (1, 2)):
        ticket.step(image_index, steps_done)
    assert events == [Progress(step, 8) for step in (1, 2, 3, 4, 5)]


def test_progress_knows_how_many_steps_are_really_run(ticket: Ticket, events: list[EngineEvent]) -> None:
    ticket.start(2)
    ticket.step(0, 1)
    assert events == [Progress(1, 4)]


def test_what_it_used_of_the_device_is_told_on_the_way_and_at_the_end(
    ticket: Ticket, events: list[EngineEvent]
) -> None:
    ticket.start(4)
    ticket.charge(0.25)
    ticket.step(0, 1)
    ticket.charge(0.5)
    ticket.keep(0, image(5))
    ticket.keep(1, image(6))
    progress, result = events
    assert progress == Progress(1, 8, device_s=0.25)
    assert isinstance(result, GenerationResult)
    assert result.device_s == 0.75


def test_a_cancelled_one_keeps_what_it_used_even_in_the_step_that_was_under_way(ticket: Ticket) -> None:
    ticket.charge(0.25)
    ticket.cancel()
    ticket.charge(0.5)
    assert ticket.device_s == 0.75


def test_nothing_is_told_after_the_end(ticket: Ticket, events: list[EngineEvent]) -> None:
    error = GenerationError("no")
    assert ticket.fail(error)
    assert not ticket.fail(GenerationError("again"))
    assert not ticket.cancel()
    ticket.step(0, 1)
    ticket.show(PREVIEW)
    ticket.keep(0, image(5))
    ticket.keep(1, image(6))
    assert events == [error]


def test_cancelling_a_finished_request_changes_nothing(ticket: Ticket, events: list[EngineEvent]) -> None:
    ticket.keep(0, image(5))
    ticket.keep(1, image(6))
    assert not ticket.cancel()
    assert [type(event) for event in events] == [GenerationResult]


def test_a_listener_that_raises_is_still_told_the_end() -> None:
    heard: list[EngineEvent] = []

    def complain(event: EngineEvent) -> None:
        heard.append(event)
        raise ValueError("not now")

    ticket = Ticket(REQUEST, complain)
    ticket.step(0, 1)
    ticket.show(PREVIEW)
    ticket.cancel()
    assert [type(event) for event in heard] == [Progress, Preview, GenerationCancelled]
    assert ticket.is_over


def test_a_listener_may_cancel_from_within_even_at_the_end(events: list[EngineEvent]) -> None:
    def listen(event: EngineEvent) -> None:
        events.append(event)
        ticket.cancel()

    ticket = Ticket(REQUEST, listen)
    ticket.step(0, 1)
    assert [type(event) for event in events] == [Progress, GenerationCancelled]
    events.clear()
    ticket = Ticket(REQUEST, listen)
    ticket.fail(GenerationError("no"))
    assert [type(event) for event in events] == [GenerationError]


def test_of_many_threads_that_end_it_one_is_heard(ticket: Ticket, events: list[EngineEvent]) -> None:
    together = threading.Barrier(8)

    def end() -> None:
        together.wait(10)
        ticket.cancel()

    threads = [threading.Thread(target=end) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [type(event) for event in events] == [GenerationCancelled]
