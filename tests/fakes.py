"""True stand-ins for what tests cannot have: an engine that makes pictures at once, a Router here, S3 in memory."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from models.errors import AdapterError
from pipelines.request import (
    AdapterReport,
    GenerationRequest,
    GenerationResult,
    Progress,
    StoredFile,
)
from serving.backends.base import OnProgress, Order
from serving.backends.gpu import EngineFailure, EngineMessage
from serving.errors import AppError, Unavailable
from serving.jobs.dispatcher import Dispatcher
from serving.jobs.feed import News, for_at_most
from serving.jobs.job import Job
from serving.jobs.lane import Place
from tests.fake_pictures import picture, previews
from tests.memory_blobs import MemoryBlobs as MemoryBlobs


class FakeBackend:
    """Makes small true pictures whose colour is decided by the seed. `gate` holds it, `troubles` are raised in turn."""

    def __init__(self, model_id: str, *, is_local: bool = True) -> None:
        self.id = f"engine:{model_id}"
        self.model_ids = frozenset({model_id})
        self.is_local = is_local
        self.calls: list[str] = []  # job ids, in the order they came
        self.num_running = 0
        self.most_running = 0
        self.num_cancelled = 0
        self.troubles: deque[BaseException] = deque()
        self.gate = asyncio.Event()
        self.gate.set()
        self.ready = True
        self.step_s = 0.0
        self.step_device_s = 0.0  # what it says that a step has used of the device
        self.adapter_refusal: str | None = None  # set: every adapter is refused with this message
        self.checked: list[StoredFile] = []

    async def make(self, order: Order, *, on_progress: OnProgress) -> GenerationResult:
        request = order.request
        self.calls.append(order.job_id)
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        started = time.perf_counter()
        try:
            if self.troubles:
                raise self.troubles.popleft()
            steps = request.num_inference_steps * request.num_images
            for step in range(1, steps + 1):
                await asyncio.sleep(self.step_s)
                await on_progress(Progress(step, steps, device_s=step * self.step_device_s))
                for preview in previews(request, step):
                    await on_progress(preview)
            await self.gate.wait()
            images = tuple(picture(request, index) for index in range(request.num_images))
            engine_s, device_s = time.perf_counter() - started, steps * self.step_device_s
            return GenerationResult(images, engine_s=engine_s, waited_s=0.0, device_s=device_s)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        finally:
            self.num_running -= 1

    async def is_ready(self) -> bool:
        return self.ready

    async def check_adapter(self, file: StoredFile) -> AdapterReport:
        self.checked.append(file)
        if self.adapter_refusal is not None:
            raise AdapterError(self.adapter_refusal)
        return AdapterReport(num_layers=32, max_rank=8, components=("unet",), num_bytes=1_000_000)


class LocalChecker:
    """AdapterChecker over fake engines; what EngineChecker is over true ones."""

    def __init__(self, backends: Mapping[str, FakeBackend]) -> None:
        self._backends = backends
        self.num_away = 0  # so many times nobody looks

    async def check_adapter(self, model_id: str, file: StoredFile, *, timeout_s: float) -> AdapterReport:
        if self.num_away:
            self.num_away -= 1
            raise Unavailable(f"No engine of {model_id} has looked at the adapter.", code="engine_lost")
        return await self._backends[model_id].check_adapter(file)


class FakeEngineLink:
    """An engine process as a backend reaches it: says `messages`, then raises `error` if there is one."""

    def __init__(self, messages: Sequence[EngineMessage], *, error: Exception | None = None) -> None:
        self._messages = messages
        self.report: AdapterReport | EngineFailure = AdapterReport(32, 8, ("unet",), 1_000_000)
        self._error = error
        self.is_closed = False
        self.ready = True

    async def generate(self, job_id: str, request: GenerationRequest) -> AsyncIterator[EngineMessage]:
        try:
            for message in self._messages:
                yield message
                await asyncio.sleep(0)
            if self._error is not None:
                raise self._error
        finally:
            self.is_closed = True

    async def check_adapter(self, file: StoredFile, *, timeout_s: float) -> AdapterReport | EngineFailure:
        return self.report

    async def is_ready(self, *, timeout_s: float) -> bool:
        return self.ready


class LocalRouterLink:
    """serving.api.deps.RouterLink to a Dispatcher of this process; what RayRouterLink does, without Ray."""

    def __init__(self, dispatcher: Dispatcher, backends: Sequence[FakeBackend]) -> None:
        self._dispatcher = dispatcher
        self._backends = backends
        self._pushes: set[asyncio.Task[Any]] = set()
        self.is_lost = False  # True: every message to the Router is lost
        self.driven: list[str] = []
        self.followed: list[str] = []
        self.cancelled: list[str] = []
        self.num_following = 0
        self.pushed: list[str] = []

    async def drive(self, job: Job, *, timeout_s: float) -> Job | None:
        self.driven.append(job.id)
        if self.is_lost:
            return None
        try:
            return await asyncio.wait_for(self._dispatcher.drive(Place.of(job)), timeout_s)
        except (TimeoutError, AppError):
            return None

    async def follow(self, job: Job, *, timeout_s: float) -> AsyncGenerator[News | Job, None]:
        self.followed.append(job.id)
        if self.is_lost:
            return
        told = for_at_most(timeout_s, self._dispatcher.follow(Place.of(job)))
        self.num_following += 1
        try:
            async with aclosing(told):
                async for news in told:
                    if self.is_lost:  # in the middle of it
                        return
                    yield news
        except AppError:
            return
        finally:
            self.num_following -= 1

    async def cancel(self, job_id: str, *, timeout_s: float) -> None:
        self.cancelled.append(job_id)
        if not self.is_lost:
            self._dispatcher.call_off(job_id)

    def push(self, job: Job) -> None:
        self.pushed.append(job.id)
        task = asyncio.create_task(self.drive(job, timeout_s=60.0))
        self._pushes.add(task)
        task.add_done_callback(self._pushes.discard)

    async def check_adapter(self, model_id: str, file: StoredFile, *, timeout_s: float) -> AdapterReport:
        backend = next((b for b in self._backends if model_id in b.model_ids), None)
        if self.is_lost or backend is None:
            raise Unavailable(f"No engine of {model_id} could look at the adapter.", code="engine_unavailable")
        return await backend.check_adapter(file)

    async def ready_models(self, *, timeout_s: float) -> Mapping[str, bool]:
        if self.is_lost:
            return {}
        return {model: await backend.is_ready() for backend in self._backends for model in backend.model_ids}
