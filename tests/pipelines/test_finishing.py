"""From latents to files: finished pictures first, one size at a time, and nothing shown twice or too late."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from configs.settings import EngineSettings
from models.errors import GenerationError, OutOfMemory
from pipelines.families.base import Family
from pipelines.finishing import Finisher, due_partial
from pipelines.meter import EngineMeter
from pipelines.preparing import Ready
from pipelines.previews import LatentColours
from pipelines.request import GenerationRequest, GenerationResult, Preview
from pipelines.sample import Order, Sample, TextEmbedding
from pipelines.ticket import EngineEvent, Ticket
from tests.pipelines.mixed import SOON_S, wait_until

REQUEST = GenerationRequest(
    model_id="m",
    prompt="a",
    negative_prompt="",
    width_px=16,
    height_px=16,
    num_images=1,
    seed=5,
    num_inference_steps=4,
    guidance_scale=1.0,
    output_format="png",
)
CPU = torch.device("cpu")


class FakeFamily:
    """Decodes latents [1, 3, h, w] to grey of their first number; waits where it is told to."""

    device = CPU

    def __init__(self) -> None:
        self.decoded: list[tuple[int, bool]] = []  # pictures and whether in tiles
        self.may_decode = threading.Event()
        self.may_decode.set()
        self.fails_whole = False

    def decode(self, latents: Sequence[torch.Tensor], *, width_px: int, height_px: int, tiled: bool) -> Any:
        assert self.may_decode.wait(SOON_S)
        self.decoded.append((len(latents), tiled))
        if self.fails_whole and not tiled:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return np.stack([np.full((height_px, width_px, 3), float(it.flatten()[0]), np.float32) for it in latents])

    def unpacked(self, latents: torch.Tensor, width_px: int, height_px: int) -> torch.Tensor:
        return latents

    def sampler(self, name: str | None) -> str:
        return "Euler"


class Bench:
    """A finisher with a fake family, and what became of the requests given to it."""

    def __init__(self, **settings: Any) -> None:
        self.family = FakeFamily()
        self.let_go: list[Ready] = []
        self.finisher = Finisher(
            cast(Family, self.family),
            LatentColours(torch.zeros(4, 3)),
            EngineSettings(**settings),
            weights_sha256="0" * 64,
            let_go=self.let_go.append,
            meter=EngineMeter(),
        )

    def sample(self, value: float = 0.5, **changes: Any) -> tuple[Sample, Ready, list[EngineEvent]]:
        events: list[EngineEvent] = []
        request = replace(REQUEST, **changes)
        latents = torch.full((1, 3, 2, 2), value)
        sample = Sample(
            Order(request, 0, TextEmbedding(torch.zeros(1, 1)), None),
            latents,
            SimpleNamespace(),
            torch.arange(request.num_inference_steps),
            torch.Generator(),
            denoised=latents,
        )
        ready = Ready(Ticket(request, events.append), (), None, None)
        return sample, ready, events

    def finish(self, sample: Sample, ready: Ready) -> None:
        sample.step = sample.num_steps
        self.finisher.finish(sample, ready)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench(preview_every_steps=1, max_decode_px=4 * 16 * 16)
    yield bench
    bench.family.may_decode.set()
    if bench.finisher.is_alive:
        bench.finisher.close()


def test_finished_pictures_of_one_size_are_decoded_together_within_the_budget(bench: Bench) -> None:
    given = [bench.sample(width_px=16 if index % 2 else 32) for index in range(12)]
    for sample, ready, _ in given:
        bench.finish(sample, ready)
    bench.finisher.open()
    wait_until(lambda: len(bench.let_go) == 12, "all are written")
    assert sorted(number for number, _ in bench.family.decoded) == [2, 2, 2, 2, 4]
    assert all(isinstance(events[-1], GenerationResult) for _, _, events in given)
    assert bench.finisher.num_waiting == 0


def test_pictures_decoded_together_are_charged_the_same(bench: Bench) -> None:
    given = [bench.sample() for _ in range(4)]
    for sample, ready, _ in given:
        bench.finish(sample, ready)
    given[0][1].ticket.cancel()
    bench.finisher.open()
    wait_until(lambda: len(bench.let_go) == 4, "all are written")
    nothing, *charged = [ready.ticket.device_s for _, ready, _ in given]
    assert nothing == 0.0, "it was not decoded"
    assert len(set(charged)) == 1
    assert charged[0] > 0


def test_a_preview_of_a_sample_that_has_finished_meanwhile_is_not_its_picture(bench: Bench) -> None:
    sample, ready, events = bench.sample()
    sample.step = 1
    bench.finisher.show(sample, ready)
    sample.step = sample.num_steps  # by the loop, after the finisher has taken the preview
    bench.finisher.open()
    wait_until(lambda: bool(events), "something is shown")
    assert [type(event) for event in events] == [Preview]
    assert bench.family.decoded == []
    assert bench.let_go == []


def test_only_the_newest_preview_of_a_sample_is_drawn(bench: Bench) -> None:
    sample, ready, events = bench.sample()
    for step in (1, 2, 3):
        sample.step = step
        bench.finisher.show(sample, ready)
    bench.finisher.open()
    wait_until(lambda: bool(events), "one is shown")
    bench.finisher.close()
    assert [event.step for event in events if isinstance(event, Preview)] == [3]


def test_finishing_a_sample_drops_its_preview(bench: Bench) -> None:
    sample, ready, events = bench.sample()
    sample.step = 1
    bench.finisher.show(sample, ready)
    bench.finish(sample, ready)
    bench.finisher.open()
    wait_until(lambda: bool(bench.let_go), "it is written")
    assert [type(event) for event in events] == [GenerationResult]


def test_partial_images_are_whole_pictures_in_the_format_asked_for(bench: Bench) -> None:
    sample, ready, events = bench.sample(num_partial_images=1, output_format="webp")
    sample.step = 2
    bench.finisher.show(sample, ready)
    bench.finisher.open()
    wait_until(lambda: bool(events), "it is shown")
    (preview,) = events
    assert isinstance(preview, Preview)
    assert (preview.partial_index, preview.step, preview.content_type) == (0, 2, "image/webp")
    assert bench.let_go == [], "the sample is still in the making"


def test_what_nobody_waits_for_is_not_decoded_but_let_go(bench: Bench) -> None:
    sample, ready, events = bench.sample()
    ready.ticket.cancel()
    bench.finish(sample, ready)
    bench.finisher.open()
    wait_until(lambda: bool(bench.let_go), "it is let go")
    assert bench.family.decoded == []
    assert len(events) == 1


def test_a_picture_that_is_not_finite_fails_and_is_let_go(bench: Bench) -> None:
    given = [bench.sample(value) for value in (0.1, float("nan"), 0.3)]
    for sample, ready, _ in given:
        bench.finish(sample, ready)
    bench.finisher.open()
    wait_until(lambda: len(bench.let_go) == 3, "all are done with")
    codes = [event.code if isinstance(event, GenerationError) else "" for _, _, (event,) in given]
    assert codes == ["", "not_finite", ""]


def test_one_picture_too_large_for_the_memory_is_decoded_in_tiles(bench: Bench) -> None:
    bench.family.fails_whole = True
    sample, ready, events = bench.sample()
    bench.finish(sample, ready)
    bench.finisher.open()
    wait_until(lambda: bool(bench.let_go), "it is written")
    assert isinstance(events[-1], GenerationResult)
    assert bench.family.decoded == [(1, False), (1, True)]


def test_large_pictures_are_decoded_in_tiles_at_once() -> None:
    bench = Bench(tile_above_px=16 * 16 - 1)
    sample, ready, events = bench.sample()
    bench.finish(sample, ready)
    bench.finisher.open()
    wait_until(lambda: bool(bench.let_go), "it is written")
    bench.finisher.close()
    assert bench.family.decoded == [(1, True)]
    assert not isinstance(events[-1], OutOfMemory)


def test_closing_waits_for_no_more_than_what_is_at_hand(bench: Bench) -> None:
    bench.family.may_decode.clear()
    for _ in range(3):
        sample, ready, _ = bench.sample(width_px=64, height_px=64)
        bench.finish(sample, ready)
    bench.finisher.open()
    wait_until(lambda: bench.finisher.num_waiting == 3, "one is at hand")
    closing = threading.Thread(target=bench.finisher.close)
    closing.start()
    bench.family.may_decode.set()
    closing.join(SOON_S)
    assert not closing.is_alive()
    assert not bench.finisher.is_alive


@pytest.mark.parametrize(
    ("num_steps", "num_partial", "shown_after"),
    [(8, 3, [2, 4, 6]), (8, 0, []), (10, 1, [5]), (3, 3, [1, 2]), (1, 2, []), (20, 2, [6, 13])],
)
def test_partial_images_divide_the_steps_evenly(num_steps: int, num_partial: int, shown_after: list[int]) -> None:
    due = {step: due_partial(step, num_steps, num_partial) for step in range(1, num_steps + 1)}
    assert [step for step, index in due.items() if index is not None] == shown_after
