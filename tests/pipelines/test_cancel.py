"""Cancelling and closing: work ends at the next step, memory and adapters come free, everybody is told exactly once."""

import gc
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.settings import EngineSettings
from models.errors import GenerationCancelled, GenerationError
from pipelines.preparing import Sources
from pipelines.request import GenerationResult, Progress, StoredFile
from pipelines.sample import Sample
from tests.pipelines.bench import Bench, assert_equal_pictures
from tests.pipelines.conftest import Promise
from tests.pipelines.mixed import ANSWER_DEADLINE_S, Follower, same_sized, wait_until

LONG = {"num_inference_steps": 400, "width_px": 64, "height_px": 64}
ROOM_FOR_TWO = EngineSettings(max_active=2, measure_budget_s=0.0)


class Door:
    """Sources whose adapters are handed out only once it is opened."""

    def __init__(self, bench: Bench) -> None:
        self.is_open = threading.Event()
        self.has_visitor = threading.Event()
        self._fetch = bench.shelf.fetch

    def fetch(self, file: StoredFile) -> Path:
        self.has_visitor.set()
        assert self.is_open.wait(ANSWER_DEADLINE_S)
        return self._fetch(file)


@pytest.fixture
def fresh(sd: Bench) -> Iterator[Bench]:
    bench = sd.start()
    yield bench
    bench.engine.close()


@pytest.fixture
def tight(sd: Bench) -> Iterator[Bench]:
    """An engine with room for two pictures."""
    bench = sd.start(ROOM_FOR_TWO)
    yield bench
    bench.engine.close()


def wait_until_empty(bench: Bench) -> None:
    engine = bench.engine

    def is_empty() -> bool:
        load = engine.load()
        return load.waiting + load.active + load.decoding + engine._bank.stats.num_in_use == 0

    wait_until(is_empty, "nothing in hand and no adapter in use")


def live_samples() -> int:
    gc.collect()
    return sum(type(it) is Sample for it in gc.get_objects())


def cancel_after(bench: Bench, num_steps: int, holder: "list[Follower]") -> Callable[[Progress], None]:
    def look(progress: Progress) -> None:
        if progress.step >= num_steps:
            bench.engine.cancel(holder[0].ticket)

    return look


def test_cancel_takes_effect_at_the_next_step_and_the_others_go_on(fresh: Bench, sd_promise: Promise) -> None:
    lora = fresh.lora("cancelled", seed=20)
    others = same_sized(sd_promise.requests)
    long = fresh.request(**LONG, num_images=3, loras=(lora,))
    holder: list[Follower] = []
    holder.append(Follower(fresh, long, on_progress=cancel_after(fresh, 30, holder)))
    followers = {name: Follower(fresh, request) for name, request in others.items()}
    for name, follower in followers.items():
        outcome = follower.outcome()
        assert isinstance(outcome, list)
        assert_equal_pictures(outcome, sd_promise.plain[name], name)
    assert isinstance(holder[0].outcome(), GenerationCancelled)
    wait_until_empty(fresh)
    num_others = sum(follower.num_steps for follower in followers.values())
    num_made = sum(num_samples for _, num_samples in fresh.meter.batches)
    # Its other two pictures may have been in the same forward pass as the step that brought the end.
    assert holder[0].num_steps == 30
    assert num_made <= num_others + 30 + 2
    assert fresh.engine.is_alive


def test_cancelling_from_another_thread_leaves_nothing_behind(tight: Bench) -> None:
    lora = tight.lora("abandoned", seed=21)
    before = live_samples()
    follower = Follower(tight, tight.request(**LONG, num_images=4, loras=(lora,)))
    assert follower.has_begun.wait(ANSWER_DEADLINE_S)
    tight.engine.cancel(follower.ticket)
    assert isinstance(follower.outcome(), GenerationCancelled)
    wait_until_empty(tight)
    wait_until(lambda: live_samples() <= before, "the samples are gone")
    assert tight.engine._bank.stats.num_in_use == 0
    assert isinstance(follower.events[-1], GenerationCancelled), "told something after its end"


def test_a_cancelled_request_makes_room_for_those_who_wait(tight: Bench) -> None:
    long = Follower(tight, tight.request(**LONG, num_images=2))
    assert long.has_begun.wait(ANSWER_DEADLINE_S)
    waiting = Follower(tight, tight.request())
    tight.engine.cancel(long.ticket)
    assert isinstance(waiting.outcome(), list)


def test_a_request_cancelled_while_it_waits_is_never_started(tight: Bench) -> None:
    long = Follower(tight, tight.request(**LONG, num_images=2))
    assert long.has_begun.wait(ANSWER_DEADLINE_S)
    waiting = Follower(tight, tight.request())
    tight.engine.cancel(waiting.ticket)
    assert isinstance(waiting.outcome(), GenerationCancelled)
    tight.engine.cancel(long.ticket)
    wait_until_empty(tight)
    assert not waiting.has_begun.is_set()
    assert isinstance(Follower(tight, tight.request()).outcome(), list)


def test_a_request_cancelled_while_its_adapter_loads_gives_it_back(sd: Bench) -> None:
    door = Door(sd)
    bench = sd.start(sources=Sources(read=sd.shelf.read, fetch=door.fetch))
    try:
        follower = Follower(bench, bench.request(loras=(bench.lora("late", seed=22),)))
        assert door.has_visitor.wait(ANSWER_DEADLINE_S)
        bench.engine.cancel(follower.ticket)
        assert isinstance(follower.outcome(), GenerationCancelled)
        assert isinstance(Follower(bench, bench.request()).outcome(), list), "loading holds nobody up"
        door.is_open.set()
        wait_until_empty(bench)
        assert not follower.has_begun.is_set()
    finally:
        door.is_open.set()
        bench.engine.close()


def test_cancelling_what_has_ended_does_nothing(sd: Bench) -> None:
    follower = Follower(sd, sd.request())
    assert isinstance(follower.outcome(), list)
    sd.engine.cancel(follower.ticket)
    assert len(follower.final_events) == 1


def test_closing_answers_everybody_wherever_their_work_is(sd: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    door, decoding, may_decode = Door(sd), threading.Event(), threading.Event()
    decode = sd.loaded.pipeline.vae.decode

    def decode_late(latents: torch.Tensor) -> object:
        decoding.set()
        assert may_decode.wait(ANSWER_DEADLINE_S)
        return decode(latents)

    bench = sd.start(ROOM_FOR_TWO, Sources(read=sd.shelf.read, fetch=door.fetch))
    monkeypatch.setattr(sd.loaded.pipeline.vae, "decode", decode_late)
    loras = [bench.lora(f"closing-{seed}", seed=seed) for seed in range(30, 36)]
    loading = [Follower(bench, bench.request(loras=(lora,))) for lora in loras]
    finished = Follower(bench, bench.request())
    assert decoding.wait(ANSWER_DEADLINE_S)
    running = Follower(bench, bench.request(**LONG))
    assert running.has_begun.wait(ANSWER_DEADLINE_S)
    waiting = [Follower(bench, replace(bench.request(), seed=seed)) for seed in range(3)]
    everybody = [*loading, finished, running, *waiting]
    closing = threading.Thread(target=bench.engine.close)
    closing.start()
    outcomes = [follower.outcome() for follower in everybody]
    door.is_open.set()
    may_decode.set()
    closing.join(ANSWER_DEADLINE_S)
    assert not closing.is_alive()
    assert all(isinstance(outcome, GenerationError) and "stopping" in str(outcome) for outcome in outcomes)
    assert all(len(follower.final_events) == 1 for follower in everybody)
    assert not bench.engine.is_alive
    late = Follower(bench, bench.request())
    assert isinstance(late.outcome(), GenerationError)


def test_a_closed_engine_has_ended_its_threads(sd: Bench) -> None:
    before = set(threading.enumerate())
    bench = sd.start()
    assert isinstance(Follower(bench, bench.request(loras=(bench.lora("last", seed=40),))).events, list)
    bench.engine.generate(bench.request())
    bench.engine.close()
    assert [thread.name for thread in set(threading.enumerate()) - before] == []


def test_generate_tells_its_progress_and_can_be_cancelled(sd: Bench) -> None:
    seen: list[Progress] = []
    result = sd.engine.generate(sd.request(num_images=2, num_inference_steps=4), on_progress=seen.append)
    assert isinstance(result, GenerationResult)
    assert sorted(progress.step for progress in seen) == list(range(1, 9))
    assert {progress.steps for progress in seen} == {8}
    some: list[Progress] = []
    with pytest.raises(GenerationCancelled) as caught:
        sd.engine.generate(sd.request(**LONG), on_progress=some.append, is_cancelled=lambda: len(some) >= 3)
    assert len(some) == 3
    assert caught.value.code == "cancelled"
