"""The Router deployment: drives jobs to their end with our engines. Loads no torch."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from ray import serve
from ray.serve.handle import DeploymentHandle

from configs.settings import Settings
from models.blobs import BlobStore
from pipelines.request import AdapterReport, StoredFile
from serving.backends.base import Backend
from serving.backends.gpu import EngineBackend, EngineFailure
from serving.jobs.dispatcher import Dispatcher, Place
from serving.jobs.driver import Driver
from serving.jobs.feed import News
from serving.jobs.job import Job
from serving.jobs.store import JobStore
from serving.mongo import Mongo
from serving.replicas.links import RayEngineLink
from serving.telemetry import configure_logging, get_logger

log = get_logger("router")


class Router:
    """One dispatcher over all local engines, and a loop that finds jobs nobody drives."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it, on the loop that the sweep needs
        self, settings: Settings, engines: Mapping[str, DeploymentHandle]
    ) -> None:
        configure_logging(settings.log, component="router", log_dir=settings.state_dir / "logs")
        self._engines = {model_id: RayEngineLink(handle) for model_id, handle in engines.items()}
        backends = [EngineBackend(model_id, link) for model_id, link in self._engines.items()]
        self._backends: dict[str, Backend] = {backend.id: backend for backend in backends}
        store = JobStore(Mongo(settings.mongo), settings.jobs)
        owner = serve.get_replica_context().replica_tag
        driver = Driver(
            store, BlobStore.from_settings(settings.s3), self._backends, settings=settings.jobs, owner=owner
        )
        self._dispatcher = Dispatcher(
            driver, store, list(engines), settings=settings.jobs, lane_width=settings.router.max_driven_per_model
        )
        self._sweeping = asyncio.create_task(self._dispatcher.sweep_forever())

    async def drive(self, place: Place, model_id: str) -> Job | None:
        return await self._dispatcher.drive(place, model_id)

    async def follow(self, place: Place, model_id: str) -> AsyncGenerator[News | Job, None]:
        async with aclosing(self._dispatcher.follow(place, model_id)) as told:
            async for news in told:
                yield news

    async def call_off(self, job_id: str) -> None:
        self._dispatcher.call_off(job_id)

    async def check_adapter(
        self, model_id: str, file: StoredFile, *, timeout_s: float
    ) -> AdapterReport | EngineFailure:
        return await self._engines[model_id].check_adapter(file, timeout_s=timeout_s)

    async def ready_models(self) -> dict[str, bool]:
        """Which models could start on a request now."""
        backends = list(self._backends.values())
        ready = await asyncio.gather(*(backend.is_ready() for backend in backends))
        return {model: is_ready for b, is_ready in zip(backends, ready, strict=True) for model in b.model_ids}

    def check_health(self) -> None:
        """Ray restarts a replica whose check raises: without its sweep a Router would leave jobs lying."""
        if self._sweeping.done():
            raise RuntimeError(f"the sweep ended: {self._sweeping}")
