"""Preparer: everything between a request's arrival and its samples' first step, beside the loop.

Adapters and pictures are fetched by a few loader threads; one thread encodes texts, many at a time, and starts samples
as far as there is room. Order of arrival is kept among requests that have what they need.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from models.errors import (
    AdapterError,
    AdapterGone,
    BlobError,
    BlobNotFound,
    GenerationError,
    InputImageError,
    SourceUnavailable,
)
from models.lora import Adapter, LoraBank, RowLoras
from pipelines.device import Side, generation_error, run_apart
from pipelines.encoding import PromptEncoder, PromptText
from pipelines.families.base import Family
from pipelines.meter import EngineMeter
from pipelines.pictures import open_mask, open_picture
from pipelines.request import LoraChoice, StoredFile
from pipelines.sample import Order, Sample, TextEmbedding
from pipelines.ticket import Ticket

NUM_LOADERS = 4
MAX_TOGETHER = 16  # pictures started in one go: the first of them should not wait for the last
WAIT_S = 0.5  # nothing is ever awaited longer without a look around


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the bytes come from that requests point at."""

    read: Callable[[StoredFile], bytes]
    fetch: Callable[[StoredFile], Path]  # for adapters: a file on this machine's disk, or AdapterGone


class Ready:
    """A request that has its adapters and pictures; some of its images may be started already."""

    def __init__(self, ticket: Ticket, loras: RowLoras, image: Image.Image | None, mask: Image.Image | None) -> None:
        self.ticket = ticket
        self.loras = loras
        self.image = image
        self.mask = mask
        self.num_started = 0
        self.num_open = 0  # started and still in the engine's hands

    @property
    def is_started(self) -> bool:
        return self.num_started == self.ticket.request.num_images


class Preparer:
    """Turns tickets into samples and hands them to `deliver`, one at a time, at most `max_active` in the making."""

    def __init__(
        self,
        family: Family,
        bank: LoraBank,
        encoder: PromptEncoder,
        sources: Sources,
        *,
        max_active: int,
        deliver: Callable[[Sample, Ready], None],
        expect: Callable[[bool], None],
        meter: EngineMeter,
    ) -> None:
        """`expect` hears that samples are being started, before the first is delivered, and that they are no more."""
        self._family = family
        self._bank = bank
        self._encoder = encoder
        self._sources = sources
        self._max_active = max_active
        self._deliver = deliver
        self._expect = expect
        self._meter = meter
        self._side = Side(family.device)
        self._changed = threading.Condition()
        self._queue: deque[Ready] = deque()
        self._num_loading = 0
        self._num_active = 0
        self._is_closed = False
        self._loaders = ThreadPoolExecutor(NUM_LOADERS, thread_name_prefix="loader")
        self._thread = threading.Thread(target=self._run, name="preparer", daemon=True)

    @property
    def num_waiting(self) -> int:
        """Pictures that are not started yet."""
        with self._changed:
            return self._num_loading + sum(r.ticket.request.num_images - r.num_started for r in self._queue)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def open(self) -> None:
        self._thread.start()

    def put(self, ticket: Ticket) -> None:
        """Takes a request; what it needs from elsewhere is fetched first. Returns at once."""
        request = ticket.request
        if not request.loras and request.image is None:
            self._enqueue(Ready(ticket, (), None, None))
            return
        with self._changed:
            self._num_loading += request.num_images
        self._loaders.submit(self._load, ticket)

    def let_go(self, ready: Ready) -> None:
        """One of its samples has left the engine, finished or not: there is room for another."""
        with self._changed:
            ready.num_open -= 1
            self._num_active -= 1
            self._release_if_done(ready)
            self._changed.notify_all()

    def close(self) -> None:
        """Stops taking and starting."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._loaders.shutdown(wait=True, cancel_futures=True)
        self._thread.join()

    # In a loader thread.

    def _load(self, ticket: Ticket) -> None:
        request = ticket.request
        acquired: list[tuple[Adapter, float]] = []
        try:
            for choice in request.loras:
                acquired.append((self._acquire(choice), choice.scale))
            size = {"width_px": request.width_px, "height_px": request.height_px}
            image = open_picture(self._sources.read(request.image), **size) if request.image else None
            mask = open_mask(self._sources.read(request.mask), **size) if request.mask else None
            self._enqueue(Ready(ticket, tuple(acquired), image, mask))
        except Exception as error:  # noqa: BLE001 - the outermost frame of this thread; the request is told
            for adapter, _ in acquired:
                self._bank.release(adapter)
            ticket.fail(_as_failure(error))
        finally:
            with self._changed:
                self._num_loading -= request.num_images

    def _acquire(self, choice: LoraChoice) -> Adapter:
        file = choice.file
        if file is None:
            raise AdapterError(f"The adapter {choice.name!r} was not looked up before it came here.")
        try:
            return self._bank.acquire(file.sha256, lambda: self._sources.fetch(file))
        except AdapterGone:  # whose message names the object, which is nothing for callers
            raise AdapterGone(f"The adapter {choice.name!r} has been deleted.") from None

    def _enqueue(self, ready: Ready) -> None:
        with self._changed:
            self._queue.append(ready)
            self._changed.notify_all()

    # In the preparer's own thread.

    def _run(self) -> None:
        with torch.inference_mode():
            while (starting := self._next()) is not None:
                self._expect(True)
                self._start(starting)
                self._expect(False)
                del starting  # while it waits for more, their memory is free

    def _next(self) -> "list[Ready] | None":
        """Waits until pictures can be started: their requests, one entry for each picture. None: closed."""
        with self._changed:
            while not self._is_closed:
                if starting := self._take():
                    return starting
                self._changed.wait(WAIT_S)
        return None

    def _take(self) -> list[Ready]:
        starting: list[Ready] = []
        while self._queue and self._num_active < self._max_active and len(starting) < MAX_TOGETHER:
            ready = self._queue[0]
            if not ready.ticket.is_over:
                ready.num_started += 1
                ready.num_open += 1
                self._num_active += 1
                starting.append(ready)
            if ready.ticket.is_over or ready.is_started:
                self._queue.popleft()
                self._release_if_done(ready)
        return starting

    def _start(self, starting: Sequence[Ready]) -> None:
        embeddings: dict[Ready, tuple[TextEmbedding, TextEmbedding | None]] = {}

        def encode(some: Sequence[Ready]) -> None:
            embeddings.update(self._encode(some))

        began_s, requests = time.perf_counter(), list(dict.fromkeys(starting))
        with self._side.work():
            failures = run_apart(requests, encode, on_split=self._on_split)
        encode_s = time.perf_counter() - began_s
        for ready in requests:
            ready.ticket.charge(encode_s / len(requests))
        for ready, error in failures:
            ready.ticket.fail(generation_error(error))
        for position, ready in enumerate(starting):
            # Those of one request stand side by side, the last of them being the one started last.
            index = ready.num_started - starting[position:].count(ready)
            if ready in embeddings and not ready.ticket.is_over:
                self._start_one(ready, index, *embeddings[ready])
            else:
                self.let_go(ready)

    def _encode(self, some: Sequence[Ready]) -> "dict[Ready, tuple[TextEmbedding, TextEmbedding | None]]":
        began_s = time.perf_counter()
        prompts = [PromptText(ready.ticket.request.prompt, ready.loras) for ready in some]
        guided = [ready for ready in some if self._family.is_guided(ready.ticket.request)]
        negatives = [PromptText(self._family.negative_text(r.ticket.request), r.loras) for r in guided]
        found, num_made = self._encoder.encode([*prompts, *negatives])
        self._meter.encoded(num_made, len(found) - num_made, time.perf_counter() - began_s)
        negative_of = dict(zip(guided, found[len(some) :], strict=True))
        return {ready: (it, negative_of.get(ready)) for ready, it in zip(some, found, strict=False)}

    def _start_one(self, ready: Ready, index: int, prompt: TextEmbedding, negative: TextEmbedding | None) -> None:
        order = Order(ready.ticket.request, index, prompt, negative, ready.loras, ready.image, ready.mask)
        began_s = time.perf_counter()
        try:
            with self._side.work():
                sample = self._family.start(order)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this request's own
            ready.ticket.fail(generation_error(error))
            self.let_go(ready)
            return
        ready.ticket.charge(time.perf_counter() - began_s)
        ready.ticket.start(sample.num_steps)
        self._deliver(sample, ready)

    def _release_if_done(self, ready: Ready) -> None:
        is_waiting = not (ready.is_started or ready.ticket.is_over)
        if not is_waiting and ready.num_open == 0:
            adapters, ready.loras = ready.loras, ()
            for adapter, _ in adapters:
                self._bank.release(adapter)

    def _on_split(self, _part: Sequence[Ready], error: Exception) -> None:
        self._meter.batch_split(type(error).__name__)


def _as_failure(error: Exception) -> GenerationError:
    if isinstance(error, BlobNotFound):
        return InputImageError("A picture that this request needs is no longer there.")
    if isinstance(error, BlobError):
        return SourceUnavailable(str(error))
    return generation_error(error)
