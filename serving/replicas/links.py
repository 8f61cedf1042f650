"""Ray handles as the links that the rooms below ask for; Ray's errors become BackendLost or None."""

import asyncio
from collections.abc import AsyncGenerator, Mapping

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from pipelines.request import GenerationRequest, Progress
from serving.backends.gpu import EngineMessage
from serving.errors import BackendLost
from serving.jobs.dispatcher import Place
from serving.jobs.job import Job
from serving.telemetry import get_logger

log = get_logger("links")


class RayEngineLink:
    """The engine replicas of one model (serving.backends.gpu.EngineLink)."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def generate(self, job_id: str, request: GenerationRequest) -> AsyncGenerator[EngineMessage, None]:
        stream = self._handle.options(stream=True).generate.remote(job_id, request)
        is_complete = False
        try:
            async for message in stream:
                is_complete = not isinstance(message, Progress)
                yield message
        except (RayError, RayServeException) as error:
            raise BackendLost(f"engine of {request.model_id}: {type(error).__name__}") from error
        finally:
            if not is_complete:
                stream.cancel()

    async def is_ready(self, *, timeout_s: float) -> bool:
        try:
            return bool(await asyncio.wait_for(self._handle.ping.remote(), timeout_s))
        except (RayError, RayServeException, TimeoutError):
            return False


class RayRouterLink:
    """The Router replicas (serving.api.deps.RouterLink)."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._pushes: set[asyncio.Task[Job | None]] = set()

    async def drive(self, job: Job, *, timeout_s: float) -> Job | None:
        try:
            driven: Job | None = await asyncio.wait_for(
                self._handle.drive.remote(Place.of(job), job.model_id), timeout_s
            )
        except TimeoutError:
            return None
        except (RayError, RayServeException) as error:
            log.warning("router lost", job_id=job.id, reason=type(error).__name__)
            return None
        return driven

    def push(self, job: Job) -> None:
        # The message waits for no longer than a Router needs to find the job by itself, many times over.
        task = asyncio.create_task(self.drive(job, timeout_s=60.0))
        self._pushes.add(task)
        task.add_done_callback(self._pushes.discard)

    async def ready_models(self, *, timeout_s: float) -> Mapping[str, bool]:
        try:
            ready: Mapping[str, bool] = await asyncio.wait_for(self._handle.ready_models.remote(), timeout_s)
        except (RayError, RayServeException, TimeoutError):
            return {}
        return ready
