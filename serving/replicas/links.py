"""Ray handles as the links that the rooms below ask for; Ray's errors become BackendLost or None."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator

from pipelines.request import AdapterReport, GenerationRequest, GenerationResult, StoredFile
from serving.backends.gpu import EngineFailure, EngineMessage, read_report
from serving.errors import BackendLost, Unavailable
from serving.jobs.feed import News, for_at_most
from serving.jobs.job import Job
from serving.jobs.lane import Place
from serving.telemetry import get_logger

log = get_logger("links")


def let_go(call: DeploymentResponse | DeploymentResponseGenerator) -> None:
    """Frees the replica. Ray lets a call that failed say so once more here, in the place of what we made of it."""
    with suppress(RayError, RayServeException):
        call.cancel()


@dataclass(frozen=True, slots=True)
class Worker:
    """Whom a stream comes from, in the words of its errors."""

    name: str
    nobody_takes_it: str
    code: str


async def said_by(
    stream: DeploymentResponseGenerator, who: Worker, *, last: tuple[type, ...]
) -> AsyncGenerator[Any, None]:
    """What a worker says, up to a message of the type that ends it. Closed before that, the worker is let go.

    Raises Unavailable where nobody took the work, so that none was lost with it, and BackendLost where one died.
    """
    is_complete = False
    try:
        async for message in stream:
            is_complete = isinstance(message, last)
            yield message
    except (DeploymentUnavailableError, BackPressureError) as error:
        raise Unavailable(who.nobody_takes_it, code=f"{who.code}_unavailable") from error
    except (RayError, RayServeException) as error:
        raise BackendLost(f"{who.name}: {type(error).__name__}") from error
    finally:
        if not is_complete:
            let_go(stream)


async def answer_of(call: DeploymentResponse, *, timeout_s: float, nobody: Unavailable) -> Any:  # noqa: ANN401 - as the replica's
    """What a replica answers. Raises `nobody` where none does in time; the replica is let go then."""
    is_complete = False
    try:
        async with asyncio.timeout(timeout_s):
            answer = await call
        is_complete = True
    except (RayError, RayServeException, TimeoutError) as error:
        raise nobody from error
    finally:
        if not is_complete:
            let_go(call)
    return answer


async def is_up(handle: DeploymentHandle, *, timeout_s: float) -> bool:
    """Whether a replica answers its ping in time."""
    try:
        return bool(await asyncio.wait_for(handle.ping.remote(), timeout_s))
    except (RayError, RayServeException, TimeoutError):
        return False


class RayEngineLink:
    """The engine replicas of one model (serving.backends.gpu.EngineLink)."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def generate(self, job_id: str, request: GenerationRequest) -> AsyncGenerator[EngineMessage, None]:
        stream = self._handle.options(stream=True).generate.remote(job_id, request)
        who = Worker(f"engine of {request.model_id}", f"No engine of {request.model_id} takes it now.", "engine")
        async with aclosing(said_by(stream, who, last=(GenerationResult, EngineFailure))) as said:
            async for message in said:
                yield message

    async def check_adapter(self, file: StoredFile, *, timeout_s: float) -> AdapterReport | EngineFailure:
        try:
            answer: AdapterReport | EngineFailure = await asyncio.wait_for(
                self._handle.check_adapter.remote(file), timeout_s
            )
        except (RayError, RayServeException, TimeoutError) as error:
            raise BackendLost(f"the adapter was not checked: {type(error).__name__}") from error
        return answer

    async def is_ready(self, *, timeout_s: float) -> bool:
        return await is_up(self._handle, timeout_s=timeout_s)


class RayRouterLink:
    """The Router replicas (serving.api.deps.RouterLink)."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._pushes: set[asyncio.Task[Job | None]] = set()

    async def drive(self, job: Job, *, timeout_s: float) -> Job | None:
        try:
            driven: Job | None = await asyncio.wait_for(self._handle.drive.remote(Place.of(job)), timeout_s)
        except TimeoutError:
            return None
        except (RayError, RayServeException) as error:
            log.warning("router lost", job_id=job.id, reason=type(error).__name__)
            return None
        return driven

    async def follow(self, job: Job, *, timeout_s: float) -> AsyncGenerator[News | Job, None]:
        stream = self._handle.options(stream=True).follow.remote(Place.of(job))
        try:
            async with aclosing(for_at_most(timeout_s, _told(stream))) as told:
                async for news in told:
                    yield news
        except (RayError, RayServeException) as error:
            log.warning("router lost", job_id=job.id, reason=type(error).__name__)

    async def cancel(self, job_id: str, *, timeout_s: float) -> None:
        try:
            await asyncio.wait_for(self._handle.call_off.remote(job_id), timeout_s)
        except (RayError, RayServeException, TimeoutError) as error:
            log.warning("router not told of the cancellation", job_id=job_id, reason=type(error).__name__)

    def push(self, job: Job) -> None:
        # The message waits for no longer than a Router needs to find the job by itself, many times over.
        task = asyncio.create_task(self.drive(job, timeout_s=60.0))
        self._pushes.add(task)
        task.add_done_callback(self._pushes.discard)

    async def check_adapter(self, model_id: str, file: StoredFile, *, timeout_s: float) -> AdapterReport:
        try:
            answer = await asyncio.wait_for(
                self._handle.check_adapter.remote(model_id, file, timeout_s=timeout_s), timeout_s
            )
        except (RayError, RayServeException, TimeoutError) as error:
            raise Unavailable(
                f"No engine of {model_id} could look at the adapter.", code="engine_unavailable"
            ) from error
        return read_report(answer)

    async def ready_models(self, *, timeout_s: float) -> Mapping[str, bool]:
        try:
            ready: Mapping[str, bool] = await asyncio.wait_for(self._handle.ready_models.remote(), timeout_s)
        except (RayError, RayServeException, TimeoutError):
            return {}
        return ready


async def _told(stream: DeploymentResponseGenerator) -> AsyncGenerator[News | Job, None]:
    """What a Router says. A follower that goes away frees the Router of it."""
    has_ended = False
    try:
        async for news in stream:
            yield news
        has_ended = True
    finally:
        if not has_ended:
            let_go(stream)
