"""Requests become samples in order of arrival, as far as there is room; what they held comes back."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from models.errors import AdapterGone, BlobNotFound
from models.lora import LoraBank
from pipelines import preparing as preparing_module
from pipelines.encoding import PromptEncoder, PromptText
from pipelines.families.base import Family
from pipelines.meter import EngineMeter
from pipelines.preparing import MAX_TOGETHER, Preparer, Ready, Sources
from pipelines.request import GenerationRequest, LoraChoice, StoredFile
from pipelines.sample import Order, Sample, TextEmbedding
from pipelines.ticket import EngineEvent, Ticket
from tests.pipelines.mixed import wait_until

REQUEST = GenerationRequest(
    model_id="m",
    prompt="a",
    negative_prompt="",
    width_px=16,
    height_px=16,
    num_images=1,
    seed=5,
    num_inference_steps=4,
    guidance_scale=4.0,
)
TEXT = TextEmbedding(torch.zeros(1, 1))


class FakeFamily:
    """Starts samples at once, except for those whose prompt says otherwise."""

    device = torch.device("cpu")

    def is_guided(self, request: GenerationRequest) -> bool:
        return request.guidance_scale > 1

    def negative_text(self, request: GenerationRequest) -> str | None:
        return request.negative_prompt or None

    def start(self, order: Order) -> Any:
        if order.request.prompt == "cannot start":
            raise ValueError("no step is left")
        return SimpleNamespace(order=order, num_steps=order.request.num_inference_steps)


class FakeEncoder:
    """Remembers what it was asked together."""

    def __init__(self) -> None:
        self.passes: list[list[str | None]] = []

    def encode(self, texts: Sequence[PromptText]) -> tuple[list[TextEmbedding], int]:
        self.passes.append([text.text for text in texts])
        if any(text.text == "cannot encode" for text in texts):
            raise RuntimeError("the encoder refused")
        return [TEXT] * len(texts), len(texts)


class FakeBank:
    """Counts who holds what."""

    def __init__(self) -> None:
        self.held: Counter[str] = Counter()

    def acquire(self, sha256: str, fetch: Callable[[], Path]) -> Any:
        fetch()
        self.held[sha256] += 1
        return SimpleNamespace(sha256=sha256, components={})

    def release(self, adapter: Any) -> None:
        self.held[adapter.sha256] -= 1
        assert self.held[adapter.sha256] >= 0, "released more often than acquired"


@dataclass
class Given:
    """A request that was put in, and what it was told."""

    ticket: Ticket
    events: list[EngineEvent]

    @property
    def code(self) -> str | None:
        return getattr(self.events[-1], "code", None) if self.events else None


class Bench:
    def __init__(self, max_active: int) -> None:
        self.bank, self.encoder = FakeBank(), FakeEncoder()
        self.delivered: list[tuple[Sample, Ready]] = []
        self.told: list[bool] = []  # whether samples are being started
        self.was_told: list[bool] = []  # at each delivery, the last of it
        self.preparer = Preparer(
            cast(Family, FakeFamily()),
            cast(LoraBank, self.bank),
            cast(PromptEncoder, self.encoder),
            Sources(read=self._nothing, fetch=self._fetch),
            max_active=max_active,
            deliver=lambda sample, ready: self._deliver(sample, ready),
            expect=self.told.append,
            meter=EngineMeter(),
        )

    def put(self, **changes: Any) -> Given:
        events: list[EngineEvent] = []
        ticket = Ticket(replace(REQUEST, **changes), events.append)
        self.preparer.put(ticket)
        return Given(ticket, events)

    def wait_for(self, number: int) -> list[tuple[str, int]]:
        """Prompt and image of all that were delivered, once they are so many."""
        wait_until(lambda: len(self.delivered) >= number, f"{number} samples")
        assert len(self.delivered) == number
        return [(sample.order.request.prompt, sample.order.image_index) for sample, _ in self.delivered]

    def let_go(self, index: int) -> None:
        self.preparer.let_go(self.delivered[index][1])

    def num_held(self) -> int:
        return sum(self.bank.held.values())

    def _deliver(self, sample: Sample, ready: Ready) -> None:
        self.was_told.append(self.told[-1])
        self.delivered.append((sample, ready))

    @staticmethod
    def _nothing(file: StoredFile) -> bytes:
        raise BlobNotFound(file.key)

    @staticmethod
    def _fetch(file: StoredFile) -> Path:
        if file.sha256 == "gone":
            raise AdapterGone(file.key)
        return Path(file.sha256)


@pytest.fixture
def make() -> Iterator[Callable[[int], Bench]]:
    made: list[Bench] = []

    def make_one(max_active: int) -> Bench:
        made.append(Bench(max_active))
        return made[-1]

    yield make_one
    for bench in made:
        if bench.preparer.is_alive:
            bench.preparer.close()


def lora(sha256: str) -> LoraChoice:
    return LoraChoice(sha256, 0.5, StoredFile("key", sha256))


def test_samples_come_in_order_of_arrival_and_no_more_than_there_is_room_for(make: Callable[[int], Bench]) -> None:
    bench = make(3)
    for prompt in "ab":
        bench.put(prompt=prompt, num_images=2)
    bench.preparer.open()
    assert bench.wait_for(3) == [("a", 0), ("a", 1), ("b", 0)]
    assert bench.preparer.num_waiting == 1
    bench.let_go(0)
    assert bench.wait_for(4)[3] == ("b", 1)
    assert bench.preparer.num_waiting == 0


def test_many_images_keep_their_numbers_over_several_goes(make: Callable[[int], Bench]) -> None:
    bench = make(100)
    num_images = 2 * MAX_TOGETHER + 3
    bench.put(num_images=num_images)
    bench.preparer.open()
    assert [index for _, index in bench.wait_for(num_images)] == list(range(num_images))


def test_texts_of_requests_that_wait_together_are_encoded_together(make: Callable[[int], Bench]) -> None:
    bench = make(10)
    bench.put(prompt="a", negative_prompt="x", num_images=3)
    bench.put(prompt="b", guidance_scale=1.0, negative_prompt="never asked")
    bench.put(prompt="c")
    bench.preparer.open()
    bench.wait_for(5)
    assert bench.encoder.passes == [["a", "b", "c", "x", None]]
    negatives = {sample.order.request.prompt: sample.order.negative for sample, _ in bench.delivered}
    assert negatives == {"a": TEXT, "b": None, "c": TEXT}


def test_who_is_encoded_together_is_charged_the_same_for_it(
    make: Callable[[int], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(10)
    monkeypatch.setattr(
        preparing_module, "time", SimpleNamespace(perf_counter=lambda: float(len(bench.encoder.passes)))
    )
    given = [bench.put(prompt=prompt, num_images=2) for prompt in "ab"]
    bench.preparer.open()
    bench.wait_for(4)
    assert [it.ticket.device_s for it in given] == [0.5, 0.5], "one pass, by this clock a second"


@pytest.mark.parametrize("prompt", ["cannot encode", "cannot start"])
def test_one_that_cannot_be_started_fails_alone_and_leaves_its_room(make: Callable[[int], Bench], prompt: str) -> None:
    bench = make(2)
    first, bad, last = bench.put(prompt="a"), bench.put(prompt=prompt, num_images=3), bench.put(prompt="b")
    bench.preparer.open()
    assert bench.wait_for(2) == [("a", 0), ("b", 0)]
    assert bad.code == "generation_failed"
    assert first.events == last.events == []
    assert bench.preparer.num_waiting == 0


def test_adapters_are_held_until_the_last_image_has_left(make: Callable[[int], Bench]) -> None:
    bench = make(2)
    bench.put(num_images=3, loras=(lora("x"), lora("y")))
    bench.preparer.open()
    bench.wait_for(2)
    bench.let_go(0)
    bench.let_go(1)
    bench.wait_for(3)
    assert bench.num_held() == 2
    bench.let_go(2)
    assert bench.num_held() == 0


def test_adapters_come_back_when_the_request_ends_before_its_images_are_started(make: Callable[[int], Bench]) -> None:
    bench = make(1)
    given = bench.put(num_images=3, loras=(lora("x"),))
    bench.preparer.open()
    bench.wait_for(1)
    given.ticket.cancel()
    assert bench.num_held() == 1, "one of its images is still being stepped"
    bench.let_go(0)
    wait_until(lambda: bench.num_held() == 0, "given back")
    bench.put(prompt="next")
    assert bench.wait_for(2)[1] == ("next", 0)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"loras": (lora("x"), lora("gone"))}, "adapter_not_found"),
        ({"loras": (lora("x"), LoraChoice("nameless"))}, "bad_adapter"),
        ({"loras": (lora("x"),), "image": StoredFile("key", "gone")}, "bad_image"),
    ],
)
def test_what_was_got_comes_back_when_the_rest_cannot_be_got(
    make: Callable[[int], Bench], changes: dict[str, Any], code: str
) -> None:
    bench = make(1)
    bench.preparer.open()
    given = bench.put(**changes)
    wait_until(lambda: bool(given.events), "it is told")
    assert given.code == code
    assert bench.num_held() == 0
    wait_until(lambda: bench.preparer.num_waiting == 0, "nothing waits")
    bench.put()
    bench.wait_for(1)


def test_a_request_that_ended_while_it_waited_is_passed_over(make: Callable[[int], Bench]) -> None:
    bench = make(10)
    waiting = [bench.put(prompt=prompt, loras=()) for prompt in "abc"]
    waiting[1].ticket.cancel()
    bench.preparer.open()
    assert bench.wait_for(2) == [("a", 0), ("c", 0)]


def test_closing_ends_the_threads_and_starts_nothing_more(make: Callable[[int], Bench]) -> None:
    bench = make(1)
    bench.preparer.open()
    for _ in range(3):
        bench.put()
    bench.wait_for(1)
    bench.preparer.close()
    assert not bench.preparer.is_alive
    assert not [thread for thread in threading.enumerate() if thread is bench.preparer._thread]
    bench.let_go(0)
    assert len(bench.delivered) == 1


def test_samples_are_announced_before_they_come_and_the_end_of_it_after_them(make: Callable[[int], Bench]) -> None:
    bench = make(8)
    bench.preparer.open()
    bench.put(num_images=3)
    bench.put(prompt="cannot start")
    bench.wait_for(3)
    wait_until(lambda: bool(bench.told) and not bench.told[-1] and bench.preparer.num_waiting == 0, "the end")
    assert bench.was_told == [True] * 3
    assert bench.told == [True, False] * (len(bench.told) // 2)
