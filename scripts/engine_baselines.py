"""Plain diffusers as a server, one request or equal requests at a time, and a clock that plays requests to any server.

Knows nothing of the engine but its face: submit() a request, and hear of it.
"""

import hashlib
import io
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import diffusers
import torch
from PIL import Image

from models.errors import GenerationError
from models.spec import ModelSpec
from pipelines.request import GeneratedImage, GenerationRequest, GenerationResult, LoraChoice
from pipelines.schedulers import get_scheduler
from pipelines.ticket import EngineEvent

STALL_S = 900.0  # a server from which nothing comes for so long is taken for hung


class BenchFailed(Exception):
    """A figure could not be taken; a bench that skips over failures would report the survivors."""


class Server(Protocol):
    """What requests are played to."""

    def submit(self, request: GenerationRequest, listen: Callable[[EngineEvent], None], /) -> object: ...


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one playing; by request, in their order."""

    wall_s: float  # from the first arrival to the last picture
    latencies_s: list[float]  # from the moment a request was due to arrive
    pictures: list[bytes]

    @property
    def requests_per_s(self) -> float:
        return len(self.latencies_s) / self.wall_s


def play(server: Server, requests: Sequence[GenerationRequest], arrivals_s: Sequence[float]) -> Run:
    """Submits every request at its moment, in real time, and waits for all of them."""
    ended: queue.SimpleQueue[tuple[int, float, EngineEvent]] = queue.SimpleQueue()

    def listener(index: int) -> Callable[[EngineEvent], None]:
        def listen(event: EngineEvent) -> None:
            if isinstance(event, GenerationResult | GenerationError):
                ended.put((index, time.perf_counter(), event))

        return listen

    began_s = time.perf_counter()
    for index, (request, arrival_s) in enumerate(zip(requests, arrivals_s, strict=True)):
        time.sleep(max(0.0, began_s + arrival_s - time.perf_counter()))
        server.submit(request, listener(index))
    latencies_s, pictures = [0.0] * len(requests), [b""] * len(requests)
    for _ in requests:
        try:
            index, ended_s, event = ended.get(timeout=STALL_S)
        except queue.Empty:
            raise BenchFailed(f"nothing came for {STALL_S:.0f} s") from None
        if not isinstance(event, GenerationResult):
            raise BenchFailed(f"request {index} failed: {event!r}; it was {requests[index]}")
        latencies_s[index], pictures[index] = ended_s - began_s - arrivals_s[index], event.images[0].data
    return Run(time.perf_counter() - began_s, latencies_s, pictures)


@dataclass(frozen=True, slots=True)
class _Waiting:
    request: GenerationRequest
    listen: Callable[[EngineEvent], None]
    came_s: float


class PlainDiffusers:
    """One diffusers pipeline behind a queue: the oldest request next, with up to `max_batch` that equal it."""

    def __init__(self, pipeline: Any, spec: ModelSpec, *, max_batch: int = 1) -> None:  # noqa: ANN401 - untyped
        self._pipeline = pipeline
        self._spec = spec
        self._max_batch = max_batch
        self._own_scheduler = pipeline.scheduler
        self._adapters: tuple[LoraChoice, ...] | None = None  # those that are on; None: not known
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=f"plain-{max_batch}", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest, listen: Callable[[EngineEvent], None], /) -> None:
        with self._changed:
            self._queue.append(_Waiting(request, listen, time.perf_counter()))
            self._changed.notify()

    def forget_adapters(self) -> None:
        """Another server has used the same pipeline in between."""
        self._adapters = None

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            began_s = time.perf_counter()
            try:
                files = [_png(image) for image in self._paint([waiting.request for waiting in batch])]
            except Exception as error:  # noqa: BLE001 - the outermost frame of this thread; the bench is told
                for waiting in batch:
                    waiting.listen(GenerationError(repr(error)))
                continue
            engine_s = time.perf_counter() - began_s
            for waiting, data in zip(batch, files, strict=True):
                waited_s, device_s = began_s - waiting.came_s, engine_s / len(batch)
                waiting.listen(_result(waiting.request, data, engine_s, waited_s, device_s))

    def _next(self) -> list[_Waiting]:
        """Empty: closed."""
        with self._changed:
            while not (self._queue or self._is_closed):
                self._changed.wait(0.5)
            if self._is_closed:
                return []
            wanted = batch_key(self._queue[0].request)
            batch = [waiting for waiting in self._queue if batch_key(waiting.request) == wanted][: self._max_batch]
            for waiting in batch:
                self._queue.remove(waiting)
            return batch

    def _paint(self, requests: Sequence[GenerationRequest]) -> list[Image.Image]:
        assert not any(request.negative_prompt for request in requests), "the workload has no negative prompts"
        first = requests[0]
        if first.loras != self._adapters:
            self._adapt(first.loras)
        self._pipeline.scheduler = self._scheduler(first.scheduler)
        images: list[Image.Image] = self._pipeline(
            prompt=[request.prompt for request in requests],
            width=first.width_px,
            height=first.height_px,
            num_inference_steps=first.num_inference_steps,
            guidance_scale=first.guidance_scale,
            generator=[torch.Generator().manual_seed(request.seed) for request in requests],
        ).images
        return images

    def _adapt(self, loras: tuple[LoraChoice, ...]) -> None:
        if loras:
            self._pipeline.enable_lora()
            self._pipeline.set_adapters([lora.name for lora in loras], [lora.scale for lora in loras])
        else:
            self._pipeline.disable_lora()
        self._adapters = loras

    def _scheduler(self, name: str | None) -> Any:  # noqa: ANN401 - untyped
        own = self._own_scheduler
        if name is None:
            return type(own).from_config(own.config)
        recipe = get_scheduler(self._spec.family, name)
        return getattr(diffusers, recipe.class_name).from_config(own.config, **recipe.overrides)


def load_adapters(pipeline: Any, adapters: Sequence[LoraChoice]) -> None:  # noqa: ANN401 - untyped
    """Puts all adapters into a plain pipeline, before anything is timed."""
    for adapter in adapters:
        assert adapter.file is not None
        path = Path(adapter.file.key)
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=adapter.name)


def batch_key(request: GenerationRequest) -> Hashable:
    """Equal for requests that diffusers can run in one call."""
    size = (request.width_px, request.height_px)
    return size, request.num_inference_steps, request.guidance_scale, request.scheduler, request.loras


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _result(
    request: GenerationRequest, data: bytes, engine_s: float, waited_s: float, device_s: float
) -> GenerationResult:
    digest = hashlib.sha256(data).hexdigest()
    image = GeneratedImage(data, "image/png", request.width_px, request.height_px, request.seed, digest)
    return GenerationResult((image,), engine_s, waited_s, device_s)
