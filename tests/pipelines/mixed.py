"""Twelve requests that differ in everything that may differ within a batch, and ways to ask for them all at once."""

import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from models.errors import GenerationError
from pipelines.request import GenerationRequest, GenerationResult, Progress
from pipelines.schedulers import SCHEDULERS
from tests.pipelines.bench import Bench, pixels_of
from tests.pipelines.reference import Pixels

ANSWER_DEADLINE_S = 120.0
SOON_S = 20.0
LONGEST_PAUSE_S = 0.02
Requests = Mapping[str, GenerationRequest]
Outcome = list[Pixels] | GenerationError


def mixed_requests(bench: Bench) -> dict[str, GenerationRequest]:
    """By what is special about each. Families that know one scheduler or no negative prompt get the same otherwise."""
    small = bench.lora("small", rank=4, seed=1, scale=0.9)
    wide = bench.lora("wide", format="kohya", rank=8, alpha=6.0, targets="all", seed=2, scale=0.7)
    thin = bench.lora("thin", format="comfy", rank=2, targets="all", seed=3, scale=-0.6)
    start = {"image": bench.picture()}
    repaint = {**start, "mask": bench.mask()}
    wishes: dict[str, tuple[str | None, int, dict[str, object]]] = {
        "own scheduler": (None, 3, {}),
        "euler": ("euler", 7, {"prompt": "a boat", "negative_prompt": "grey"}),
        "euler-a, two images": ("euler-a", 5, {"height_px": 32, "seed": 2**63 - 1, "num_images": 2}),
        "ddim, high guidance": ("ddim", 9, {"width_px": 96, "guidance_scale": 12.0, "negative_prompt": "a red boat"}),
        "dpm++2m, one adapter": ("dpm++2m", 6, {"loras": (small,)}),
        "karras, convolutions and texts": ("dpm++2m-karras", 8, {"loras": (wide,), "negative_prompt": "fog"}),
        "unipc, two adapters": ("unipc", 6, {"loras": (thin, small), "guidance_scale": 2.5}),
        "lcm, no guidance": ("lcm", 4, {"width_px": 96, "guidance_scale": 1.0, "loras": (thin,)}),
        "guidance below one": (None, 12, {"guidance_scale": 0.0}),
        "from a picture": ("euler", 10, {**start, "strength": 0.6}),
        "from a picture, with an adapter": (None, 8, {**start, "height_px": 32, "strength": 0.8, "loras": (wide,)}),
        "inpainting": ("dpm++2m", 9, {**repaint, "strength": 0.9, "loras": (small,), "prompt": "red red"}),
    }
    requests = {}
    for number, (name, (scheduler, num_steps, changes)) in enumerate(wishes.items()):
        fields: dict[str, object] = {"seed": number, "negative_prompt": "", "width_px": 64, "height_px": 64} | changes
        if scheduler not in SCHEDULERS[bench.family]:
            scheduler = (None, *SCHEDULERS[bench.family])[number % 2]
        if not bench.has_negative_prompt:
            fields["negative_prompt"] = ""
        requests[name] = bench.request(scheduler=scheduler, num_inference_steps=num_steps, **fields)
    return requests


def same_sized(requests: Requests) -> dict[str, GenerationRequest]:
    """The seven of mixed_requests() that can share one forward pass."""
    return {
        name: request
        for name, request in requests.items()
        if (request.width_px, request.height_px, request.guidance_scale > 0) == (64, 64, True)
    }


def at_random_moments(bench: Bench, requests: Requests, order_seed: int) -> dict[str, list[Pixels]]:
    """Every request from a thread of its own, after a random pause."""
    dice = random.Random(order_seed)
    pauses_s = {name: dice.uniform(0, LONGEST_PAUSE_S) for name in requests}

    def ask(name: str) -> list[Pixels]:
        time.sleep(pauses_s[name])
        return bench.pixels(requests[name])

    with ThreadPoolExecutor(len(requests)) as pool:
        futures = {name: pool.submit(ask, name) for name in requests}
        return {name: future.result(ANSWER_DEADLINE_S) for name, future in futures.items()}


def all_at_once(bench: Bench, requests: Requests) -> dict[str, Outcome]:
    """What becomes of each, submitted as fast as this thread can."""
    followers = {name: Follower(bench, request) for name, request in requests.items()}
    return {name: follower.outcome() for name, follower in followers.items()}


class Follower:
    """Submits a request and remembers all that it is told about it."""

    def __init__(
        self, bench: Bench, request: GenerationRequest, *, on_progress: Callable[[Progress], None] | None = None
    ) -> None:
        self.events: list[object] = []
        self.is_over = threading.Event()
        self.has_begun = threading.Event()
        self._on_progress = on_progress
        self.ticket = bench.engine.submit(request, self._hear)

    def _hear(self, event: object) -> None:
        self.events.append(event)
        if isinstance(event, GenerationResult | GenerationError):
            self.is_over.set()
        if isinstance(event, Progress):
            self.has_begun.set()
            if self._on_progress is not None:
                self._on_progress(event)

    @property
    def num_steps(self) -> int:
        """Of all its images, as far as it was told."""
        return max((event.step for event in self.events if isinstance(event, Progress)), default=0)

    @property
    def final_events(self) -> list[object]:
        return [event for event in self.events if isinstance(event, GenerationResult | GenerationError)]

    def outcome(self) -> Outcome:
        """Waits for the end."""
        assert self.is_over.wait(ANSWER_DEADLINE_S), "a request was never answered"
        (final,) = self.final_events
        if isinstance(final, GenerationResult):
            return pixels_of(final)
        assert isinstance(final, GenerationError)
        return final


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """For what other threads do soon after the last event."""
    deadline_s = time.monotonic() + SOON_S
    while not is_so():
        assert time.monotonic() < deadline_s, f"never happened: {what}"
        time.sleep(0.005)
