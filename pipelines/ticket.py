"""Ticket: one request inside the engine, from its arrival to exactly one final event. Knows no tensors."""

import threading
import time
from collections.abc import Callable

import structlog

from models.errors import GenerationCancelled, GenerationError
from pipelines.request import GeneratedImage, GenerationRequest, GenerationResult, Preview, Progress

EngineEvent = Progress | Preview | GenerationResult | GenerationError
Listener = Callable[[EngineEvent], None]

log = structlog.get_logger("darkroom.engine")


class Ticket:
    """Collects what the engine's threads make for a request and tells its listener.

    Events come from several threads, one at a time and in order; the last is a GenerationResult or a GenerationError.
    """

    def __init__(self, request: GenerationRequest, listen: Listener) -> None:
        self.request = request
        self.came_s = time.perf_counter()
        self._listen = listen
        self._lock = threading.RLock()  # a listener may cancel
        self._images: dict[int, GeneratedImage] = {}
        self._steps_done = [0] * request.num_images
        self._steps_of_image = request.num_inference_steps
        self._started_s: float | None = None
        self._device_s = 0.0
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """True once its final event was told: whatever is still in the making for it can be dropped."""
        return self._is_over

    @property
    def device_s(self) -> float:
        """What it has used of the device; work that was under way when it ended still counts."""
        return self._device_s

    def start(self, num_steps: int) -> None:
        """One of its pictures was started and will take so many steps."""
        with self._lock:
            self._steps_of_image = num_steps
            self._started_s = self._started_s or time.perf_counter()

    def charge(self, device_s: float) -> None:
        """The device has worked for it so long."""
        with self._lock:
            self._device_s += device_s

    def step(self, image_index: int, steps_done: int) -> None:
        with self._lock:
            self._steps_done[image_index] = steps_done
            steps = self._steps_of_image * self.request.num_images
            self._tell(Progress(sum(self._steps_done), steps, self._device_s))

    def show(self, preview: Preview) -> None:
        with self._lock:
            self._tell(preview)

    def keep(self, image_index: int, image: GeneratedImage) -> None:
        """A finished picture; with the last one the request is done."""
        with self._lock:
            self._images[image_index] = image
            if len(self._images) < self.request.num_images:
                return
            began_s, ended_s = self._started_s or self.came_s, time.perf_counter()
            images = tuple(self._images[index] for index in sorted(self._images))
            engine_s, waited_s = ended_s - began_s, began_s - self.came_s
            self._end(GenerationResult(images, engine_s, waited_s, self._device_s))

    def fail(self, error: GenerationError) -> bool:
        """Ends the request with `error`; False when it had ended before."""
        with self._lock:
            was_over = self._is_over
            self._end(error)
        return not was_over

    def cancel(self) -> bool:
        return self.fail(GenerationCancelled("The request was cancelled."))

    def _end(self, event: GenerationResult | GenerationError) -> None:
        was_over, self._is_over = self._is_over, True
        self._images.clear()
        if not was_over:
            self._call(event)

    def _tell(self, event: EngineEvent) -> None:
        if not self._is_over:
            self._call(event)

    def _call(self, event: EngineEvent) -> None:
        try:
            self._listen(event)
        except Exception:  # noqa: BLE001 - a stranger's code; the thread that tells it works for other requests too
            log.exception("a listener failed", event_kind=type(event).__name__)
