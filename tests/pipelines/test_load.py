"""Many requests: all end right, nobody waits for a long one, and afterwards there is as much memory as before."""

import gc
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psutil
import pytest
import torch

from configs.settings import EngineSettings
from pipelines.finishing import NUM_WRITERS
from pipelines.preparing import NUM_LOADERS
from pipelines.request import GenerationRequest, LoraChoice, Progress
from pipelines.sample import Sample
from pipelines.ticket import Ticket
from tests.pipelines.bench import QUICK_START, Bench, assert_equal_pictures
from tests.pipelines.mixed import ANSWER_DEADLINE_S, Follower, all_at_once, wait_until

NUM_LORAS = 8
NUM_CONCURRENT = 64
NUM_IN_A_ROW = 500
RSS_GROWTH_BYTES = 40_000_000  # allocators keep some; 500 leaked samples with their embeddings would be more
SMALL = {"width_px": 32, "height_px": 32, "num_inference_steps": 2}


@pytest.fixture
def fresh(sd: Bench) -> Iterator[Bench]:
    bench = sd.start()
    yield bench
    bench.engine.close()


def census() -> Counter[str]:
    """Live objects of the kinds that could pile up."""
    gc.collect()
    kinds: dict[type, str] = {Sample: "samples", Ticket: "tickets"}
    # By type(): some objects warn when isinstance() asks them for their class.
    count = Counter(kinds[type(it)] for it in gc.get_objects() if type(it) in kinds)
    count["tensors"] = sum(issubclass(type(it), torch.Tensor) for it in gc.get_objects())
    return count


def eight_loras(bench: Bench) -> list[LoraChoice]:
    return [
        bench.lora(
            f"load-{number}",
            format="kohya" if number % 2 else "peft",
            rank=2 + 2 * (number % 3),
            targets="all" if number % 4 == 0 else "attention",
            seed=50 + number,
            scale=0.5 + number / 10,
        )
        for number in range(NUM_LORAS)
    ]


def many_requests(bench: Bench, loras: list[LoraChoice]) -> dict[str, GenerationRequest]:
    """With every adapter, and with none, in three sizes."""
    sizes = ((64, 64), (64, 32), (32, 32))
    choices = [(), *((lora,) for lora in loras)]
    return {
        str(number): bench.request(
            seed=number,
            width_px=sizes[number % 3][0],
            height_px=sizes[number % 3][1],
            num_inference_steps=3 + number % 4,
            guidance_scale=(1.0, 3.0, 6.0, 0.0)[number % 4],
            scheduler=(None, "euler-a", "unipc")[number % 3],
            loras=choices[number % len(choices)],
        )
        for number in range(NUM_CONCURRENT)
    }


def test_64_requests_at_once_with_eight_adapters_end_as_each_would_alone(fresh: Bench) -> None:
    requests = many_requests(fresh, eight_loras(fresh))
    outcomes = all_at_once(fresh, requests)
    assert fresh.meter.largest_batch >= 8
    for name, request in requests.items():
        outcome = outcomes[name]
        assert isinstance(outcome, list), f"{name}: {outcome}"
        assert_equal_pictures(outcome, fresh.pixels(request), name)
    for name in list(requests)[:: NUM_CONCURRENT // NUM_LORAS]:
        assert_equal_pictures(outcomes[name], fresh.plain(requests[name]), f"{name}, by plain diffusers")


def test_memory_is_back_at_its_level_after_64_requests(fresh: Bench) -> None:
    requests = many_requests(fresh, eight_loras(fresh))
    all_at_once(fresh, requests)
    wait_until(lambda: census()["samples"] == 0, "the samples are gone")
    before = census()
    again = {name: replace(request, seed=request.seed + 1000) for name, request in requests.items()}
    assert all(isinstance(outcome, list) for outcome in all_at_once(fresh, again).values())
    wait_until(lambda: fresh.engine._bank.stats.num_in_use == 0, "no adapter is in use")
    wait_until(lambda: census()["tickets"] <= before["tickets"], "the tickets are gone")
    after = census()
    assert after["samples"] == 0
    # What is kept for the next batch (stacks of adapters) depends on who met whom; it is bounded, and counted here.
    stats = fresh.engine._bank.stats
    assert stats.device_bytes + stats.stack_bytes <= 2 * QUICK_START.adapter_device_bytes


def test_adapters_stay_within_their_budget_and_come_back_when_wanted(sd: Bench) -> None:
    loras = eight_loras(sd)
    sizes = []
    for lora in loras:
        assert lora.file is not None
        sizes.append(sd.engine.check_adapter(lora.file).num_bytes)
    budget_bytes = 2 * max(sizes)
    bench = sd.start(EngineSettings(adapter_device_bytes=budget_bytes, measure_budget_s=0.0))
    try:
        for lora in [*loras, *loras]:
            request = bench.request(loras=(lora,))
            assert_equal_pictures(bench.pixels(request), sd.pixels(request), lora.name)
            wait_until(lambda: bench.engine._bank.stats.num_in_use == 0, "given back")
            assert bench.engine.load().adapter_bytes <= budget_bytes
        assert bench.engine.load().num_adapter_loads > NUM_LORAS
    finally:
        bench.engine.close()


def test_500_requests_in_a_row_leak_nothing(fresh: Bench) -> None:
    lora = fresh.lora("in a row", seed=70)

    def run(first_seed: int, number: int) -> None:
        for seed in range(first_seed, first_seed + number):
            loras = (lora,) if seed % 5 == 0 else ()
            follower = Follower(fresh, fresh.request(**SMALL, seed=seed, loras=loras))
            assert isinstance(follower.outcome(), list)

    def settled() -> Counter[str]:
        wait_until(lambda: (it := census())["samples"] == 0 and it["tickets"] == 0, "samples and tickets are gone")
        return census()

    run(0, 30)
    before, rss_bytes, num_threads = settled(), psutil.Process().memory_info().rss, threading.active_count()
    run(1000, NUM_IN_A_ROW)
    assert settled() == before
    # Pools of threads fill up as they are needed, and then stay as they are.
    assert threading.active_count() <= num_threads + NUM_LOADERS + NUM_WRITERS
    assert psutil.Process().memory_info().rss - rss_bytes < RSS_GROWTH_BYTES


@pytest.mark.parametrize("attempt", range(5))
def test_a_short_request_makes_its_first_step_within_one_step_of_a_long_one(
    fresh: Bench, monkeypatch: pytest.MonkeyPatch, attempt: int
) -> None:
    steps_of_long: list[int] = []
    delivered_at: list[int] = []
    first_step_at: list[int] = []
    loop = fresh.engine._loop
    deliver = loop.deliver

    def note_delivery(*sample_and_request: Any) -> None:
        deliver(*sample_and_request)
        delivered_at.append(len(steps_of_long))

    def note_step(progress: Progress) -> None:
        if progress.step == 1:
            first_step_at.append(len(steps_of_long))

    long = Follower(
        fresh,
        fresh.request(width_px=128, height_px=128, num_inference_steps=400),
        on_progress=lambda progress: steps_of_long.append(progress.step),
    )
    assert long.has_begun.wait(ANSWER_DEADLINE_S)
    monkeypatch.setattr(loop, "deliver", note_delivery)
    assert isinstance(Follower(fresh, fresh.request(**SMALL, seed=attempt), on_progress=note_step).outcome(), list)
    assert not long.is_over.is_set(), "the long one was not long enough to show anything"
    # One step may be on its way when the short request becomes ready; none may begin before its own.
    assert first_step_at[0] - delivered_at[0] <= 1
    fresh.engine.cancel(long.ticket)


def test_nobody_starves_while_short_requests_keep_coming(fresh: Bench) -> None:
    long = Follower(fresh, fresh.request(width_px=64, height_px=64, num_inference_steps=40))
    num_short = 0
    while not long.is_over.is_set():
        assert isinstance(Follower(fresh, fresh.request(**SMALL, seed=num_short)).outcome(), list)
        num_short += 1
        assert num_short < 40 * 40, "the long one never got its turn"
    assert isinstance(long.outcome(), list)
