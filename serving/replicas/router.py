"""The Router deployment: drives jobs to their end with our engines, Frames and Trainer replicas. Loads no torch."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from functools import partial

from ray import serve
from ray.serve.handle import DeploymentHandle

from configs.settings import Settings
from models.blobs import BlobStore
from models.catalog import load_catalog
from pipelines.moderation.classifier import classifier_name
from pipelines.request import FRAMES, TRAINING, AdapterReport, StoredFile
from serving.adapters.publishing import AdapterPublisher
from serving.adapters.store import AdapterStore
from serving.api.schemas.jobs import event_view
from serving.backends.base import Backend
from serving.backends.frames import FramesBackend
from serving.backends.gpu import EngineBackend, EngineChecker, EngineFailure
from serving.backends.training import TrainingBackend
from serving.draining import FRESH_S, Board
from serving.errors import Unavailable
from serving.jobs.caretaker import Caretaker
from serving.jobs.chores import Chores
from serving.jobs.dispatcher import Dispatcher
from serving.jobs.driver import Driver
from serving.jobs.feed import News
from serving.jobs.idempotency import IdempotencyKeys
from serving.jobs.job import Job
from serving.jobs.keeping import Keeper
from serving.jobs.lane import Place
from serving.jobs.lora_keeping import TrainingKeeper
from serving.jobs.pace import OldPaces, Pace
from serving.jobs.shares import Shares
from serving.jobs.store import JobStore
from serving.jobs.upkeep import JobUpkeep
from serving.moderation.moderation import Moderation
from serving.mongo import Mongo
from serving.outbound import Outbound
from serving.replicas.frames_link import RayFramesLink
from serving.replicas.links import RayEngineLink
from serving.replicas.moderator_link import RayModeratorLink
from serving.replicas.trainer_link import RayTrainerLink
from serving.telemetry import configure_logging, get_logger
from serving.tenancy.policies import TenantPolicies
from serving.tenancy.tenants import Tenants
from serving.uploads.upkeep import UploadUpkeep
from serving.uploads.uses import UploadUses
from serving.webhooks.work import Webhooks, WebhookWork

log = get_logger("router")


class Router:
    """One dispatcher over all that is made here, and a loop that finds jobs nobody drives."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it, on the loop that the sweep needs
        self,
        settings: Settings,
        engines: Mapping[str, DeploymentHandle],
        moderator: DeploymentHandle,
        frames: DeploymentHandle,
        trainer: DeploymentHandle,
        generation: int,
    ) -> None:
        configure_logging(settings.log, component="router", log_dir=settings.state_dir / "logs")
        self._engines = {model_id: RayEngineLink(handle) for model_id, handle in engines.items()}
        mongo, blobs = Mongo(settings.mongo), BlobStore.from_settings(settings.s3)
        store, upkeep = JobStore(mongo, settings.jobs), JobUpkeep(mongo, settings.jobs)
        owner = serve.get_replica_context().replica_tag
        outbound = Outbound(settings.outbound)
        policies = TenantPolicies(Tenants(mongo), settings)
        moderation = Moderation(
            RayModeratorLink(moderator, name=classifier_name(settings.moderation)),
            policies,
            timeout_s=settings.moderation.timeout_s,
        )
        backends: list[Backend] = [EngineBackend(model_id, link) for model_id, link in self._engines.items()]
        backends.append(FramesBackend(RayFramesLink(frames), moderation.policy_of))
        backends.append(TrainingBackend(RayTrainerLink(trainer), moderation.policy_of))
        self._backends = {backend.id: backend for backend in backends}
        adapters, insist_s = AdapterStore(mongo, blobs, UploadUses.over(mongo, store)), settings.jobs.lease_s
        publisher = AdapterPublisher(
            adapters,
            blobs,
            EngineChecker(self._engines),
            load_catalog(),
            served=frozenset(engines),
            insist_s=insist_s,
        )
        trainings = TrainingKeeper(blobs, moderation, publisher, insist_s=insist_s)
        keeper = Keeper(blobs, moderation, trainings, insist_s=insist_s)
        webhooks = Webhooks.over(mongo, outbound, settings.webhooks)
        sign = partial(blobs.presign_get, expiry_s=settings.s3.url_expiry_s)
        self._webhooks = WebhookWork(webhooks, upkeep, outbound, partial(event_view, sign), settings.webhooks)
        self._dispatcher = Dispatcher(
            Driver(store, keeper, self._backends, settings=settings.jobs, owner=owner),
            store,
            upkeep,
            Shares(mongo, half_life_s=settings.jobs.share_half_life_s),
            [Pace(mongo, model_id, owner=owner) for model_id in (*engines, FRAMES, TRAINING)],
            settings=settings.jobs,
            lane_widths=lane_widths(settings, engines),
            onlooker=self._webhooks,
        )
        caretaker = Caretaker(
            upkeep,
            blobs,
            adapters,
            policies,
            Chores(mongo, owner=owner),
            forgetful=[
                IdempotencyKeys(mongo, keep_s=settings.api.idempotency_keep_s),
                webhooks.deliveries,
                OldPaces(mongo),
            ],
            prompt=[UploadUpkeep.over(mongo, blobs, store, settings)],
            settings=settings.jobs,
        )
        self._webhooks.start()
        self._sweeping = asyncio.create_task(self._dispatcher.sweep_forever())
        self._caring = asyncio.create_task(caretaker.run_forever())
        self._drain_s = settings.jobs.drain_s
        self._is_draining = False
        self._watching = asyncio.create_task(self._watch(Board(mongo, settings.jobs), generation))

    async def drive(self, place: Place) -> Job | None:
        return await self._dispatcher.drive(place)

    async def follow(self, place: Place) -> AsyncGenerator[News | Job, None]:
        async with aclosing(self._dispatcher.follow(place)) as told:
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
        for loop in (self._sweeping, self._caring):
            if loop.done():
                raise RuntimeError(f"a loop has ended: {loop}")
        if self._webhooks.is_broken and not self._is_draining:
            raise RuntimeError("a loop of the webhooks has ended")
        if self._watching.done() and not self._is_draining:
            raise RuntimeError(f"the watch on the board ended: {self._watching}")

    async def __del__(self) -> None:
        """Ray calls it when the replica is stopped, once the calls that wait here have been answered."""
        if hasattr(self, "_dispatcher"):  # not where starting failed
            await self._let_go(self._drain_s)

    async def _watch(self, board: Board, generation: int) -> None:
        """Lets go of its jobs once the server is being stopped, or a Router of a newer deployment is up."""
        is_announced = False
        while True:
            try:
                if not is_announced:
                    await board.announce(generation)
                    is_announced = True
                go_by = (await board.read()).must_go_by(generation, drain_s=self._drain_s)
            except Unavailable as error:
                log.warning("board not read", reason=error.message)
                go_by = None
            if go_by is not None:
                await self._let_go(max(0.0, go_by - time.time()))
                return
            await asyncio.sleep(FRESH_S)

    async def _let_go(self, deadline_s: float) -> None:
        """Jobs first, so that the news of those that end are still sent from here."""
        self._is_draining = True
        await self._dispatcher.drain(deadline_s=deadline_s)
        await self._webhooks.stop()


def lane_widths(settings: Settings, model_ids: Iterable[str]) -> dict[str, int]:
    """Together the Routers fill the engines and no more: what waits there could not give way to others."""
    in_all = dict.fromkeys(model_ids, settings.router.max_driven_per_model)
    in_all[FRAMES] = settings.frames.max_at_once * settings.frames.num_replicas
    in_all[TRAINING] = settings.training.max_at_once * settings.training.num_replicas
    return {model_id: max(1, width // settings.router.num_replicas) for model_id, width in in_all.items()}
