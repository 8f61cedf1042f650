"""A whole Darkroom in one process: true routes, driver and dispatcher over a true MongoDB; no Ray, no GPU, no S3."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
from starlette.types import ASGIApp

from configs.settings import MongoSettings, Settings
from models.catalog import load_catalog
from models.spec import ModelSpec
from pipelines.request import FRAMES, TRAINING, GenerationRequest
from serving.adapters.publishing import AdapterPublisher
from serving.adapters.store import AdapterStore
from serving.api.app import build_app
from serving.api.deps import OPERATOR_TENANT, Services
from serving.api.schemas.jobs import event_view
from serving.api.services import make_services
from serving.backends.base import Backend
from serving.backends.frames import FramesBackend
from serving.backends.training import TrainingBackend
from serving.frames.extraction import Extraction
from serving.jobs.dispatcher import Dispatcher
from serving.jobs.driver import Driver
from serving.jobs.job import Job, Status, new_job
from serving.jobs.keeping import Keeper
from serving.jobs.lora_keeping import TrainingKeeper
from serving.jobs.pace import Pace
from serving.jobs.shares import Shares
from serving.jobs.store import JobStore
from serving.jobs.upkeep import JobUpkeep
from serving.moderation.moderation import Moderation
from serving.mongo import Mongo
from serving.outbound import Outbound
from serving.tenancy.policies import TenantPolicies
from serving.tenancy.tenants import Tenants
from serving.uploads.uses import UploadUses
from serving.webhooks.work import Webhooks, WebhookWork
from tests.fakes import FakeBackend, LocalChecker, LocalRouterLink, MemoryBlobs
from tests.frames import LocalExtractionLink
from tests.moderators import LocalModeratorLink
from tests.serving.sockets import eventually as eventually
from tests.serving.sockets import on_a_port as on_a_port
from tests.trainings import LocalTrainingLink
from tests.uploads import LocalFramesLink

MODELS = ("emoji-3d", "flux-schnell")  # one that takes everything, one without guidance and negative prompt
JOB_SETTINGS: dict[str, Any] = {"lease_s": 4.0, "heartbeat_s": 1.0, "poll_s": 0.05, "retry_base_s": 0.05}
WEBHOOK_SETTINGS: dict[str, Any] = {"poll_s": 0.05, "retry_waits_s": (0, 0.1, 0.1, 0.1), "slow_wait_s": 0.05}


@dataclass(frozen=True)
class House:
    """The parts, and a key for each kind of caller: the operator, and two members of two tenants."""

    services: Services
    backends: Mapping[str, FakeBackend]
    blobs: MemoryBlobs
    router: LocalRouterLink
    moderator: LocalModeratorLink
    frames: LocalFramesLink
    extractions: LocalExtractionLink
    trainer: LocalTrainingLink
    driver: Driver
    upkeep: JobUpkeep
    dispatcher: Dispatcher
    webhook_work: WebhookWork
    app: ASGIApp
    operator: httpx.AsyncClient
    alice: httpx.AsyncClient
    bob: httpx.AsyncClient
    anonymous: httpx.AsyncClient
    sweeping: "asyncio.Task[None] | None"

    @property
    def mongo(self) -> Mongo:
        return self.services.mongo

    @property
    def store(self) -> JobStore:
        return self.services.store

    @property
    def backend(self) -> FakeBackend:
        return self.backends[MODELS[0]]

    def client(self, key: str | None) -> httpx.AsyncClient:
        return _client(self.app, key)

    async def insert(self, **changes: Any) -> Job:
        """A waiting job that no Router was told of."""
        job = a_job(**changes)
        await self.store.insert(job)
        return job

    async def drive(self, job: Job) -> Job | None:
        claimed = await self.driver.claim(job.id)
        return None if claimed is None else await self.driver.drive(claimed, waited_s=0.0)

    async def try_again(self, job: Job) -> Job | None:
        """Drives a job that was put back, as if its wait were over."""
        assert await self.upkeep.promote(await self.store.get(job.tenant, job.id))
        return await self.drive(job)

    async def until(self, job: Job, status: Status) -> Job:
        async def has_it() -> bool:
            return (await self.store.get(job.tenant, job.id)).status == status

        await eventually(has_it)
        return await self.store.get(job.tenant, job.id)

    async def close(self) -> None:
        await self.dispatcher.drain(deadline_s=0.0)  # or what a test left running would go on without its database
        await self.webhook_work.stop()
        if self.sweeping is not None:
            self.sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await self.sweeping
        for client in (self.operator, self.alice, self.bob, self.anonymous):
            await client.aclose()
        await self.services.uploads.close()
        self.frames.close()
        await self.mongo.close()


async def open_house(
    mongo: MongoSettings,
    *,
    jobs: Mapping[str, Any] | None = None,
    api: Mapping[str, Any] | None = None,
    webhooks: Mapping[str, Any] | None = None,
    outbound: Mapping[str, Any] | None = None,
    uploads: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    frame_settings: Mapping[str, Any] | None = None,
    moderation: Mapping[str, Any] | None = None,
    lane_width: int = 4,
    sweeps: bool = True,
    announces: bool = False,
    make_mongo: Callable[[MongoSettings], Mongo] = Mongo,
) -> House:
    settings = Settings.model_validate(
        {
            "mongo": mongo,
            "jobs": {**JOB_SETTINGS, **(jobs or {})},
            "api": dict(api or {}),
            "webhooks": {**WEBHOOK_SETTINGS, **(webhooks or {})},
            "outbound": dict(outbound or {}),
            "uploads": dict(uploads or {}),
            "frames": {"num_threads": 1, **(frame_settings or {})},
            "training": dict(training or {}),
            "moderation": dict(moderation or {}),
            "models": {"enabled": list(MODELS)},
        }
    )
    gate = make_mongo(settings.mongo)
    await gate.make_indexes()
    catalog = served_catalog()
    store = JobStore(gate, settings.jobs)
    blobs = MemoryBlobs()
    backends = {model_id: FakeBackend(model_id) for model_id in MODELS}
    upkeep = JobUpkeep(gate, settings.jobs)
    moderator = LocalModeratorLink()
    frames = LocalFramesLink(blobs, settings.uploads)
    moderation = Moderation(moderator, TenantPolicies(Tenants(gate), settings), timeout_s=settings.moderation.timeout_s)
    insist_s = settings.jobs.lease_s
    adapters = AdapterStore(gate, blobs, UploadUses.over(gate, store))
    publisher = AdapterPublisher(
        adapters,
        blobs,
        LocalChecker(backends),
        load_catalog(),
        served=frozenset(MODELS),
        insist_s=insist_s,
    )
    trainings = TrainingKeeper(blobs, moderation, publisher, insist_s=insist_s)
    keeper = Keeper(blobs, moderation, trainings, insist_s=insist_s)
    extractions = LocalExtractionLink(Extraction(blobs, moderator, frames.workspace, settings))
    trainer = LocalTrainingLink(blobs)
    makers: list[Backend] = [
        *backends.values(),
        FramesBackend(extractions, moderation.policy_of),
        TrainingBackend(trainer, moderation.policy_of),
    ]
    driver = Driver(store, keeper, {b.id: b for b in makers}, settings=settings.jobs, owner="router-1")
    guard = Outbound(settings.outbound, resolve=public_names)
    sign = partial(blobs.presign_get, expiry_s=settings.s3.url_expiry_s)
    webhooks_here = Webhooks.over(gate, guard, settings.webhooks)
    webhook_work = WebhookWork(webhooks_here, upkeep, guard, partial(event_view, sign), settings.webhooks)
    dispatcher = Dispatcher(
        driver,
        store,
        upkeep,
        Shares(gate, half_life_s=settings.jobs.share_half_life_s),
        [Pace(gate, model_id, owner="router-1") for model_id in (*MODELS, FRAMES, TRAINING)],
        settings=settings.jobs,
        lane_widths=dict.fromkeys((*MODELS, TRAINING), lane_width) | {FRAMES: settings.frames.max_at_once},
        onlooker=webhook_work,
    )
    router = LocalRouterLink(dispatcher, list(backends.values()))
    services = make_services(
        settings,
        catalog,
        mongo=gate,
        store=store,
        blobs=blobs,
        router=router,
        outbound=guard,
        moderator=moderator,
        frames=frames,
        trainer=trainer,
    )
    if announces:
        webhook_work.start()
    app = build_app(services)
    secrets: dict[str, str] = {}
    for tenant in (OPERATOR_TENANT, "alice", "bob"):
        await services.tenants.ensure(tenant)
        role = "admin" if tenant == OPERATOR_TENANT else "member"
        _, secrets[tenant] = await services.keys.create(tenant, name=f"{tenant}'s key", role=role)
    return House(
        services=services,
        backends=backends,
        blobs=blobs,
        router=router,
        moderator=moderator,
        frames=frames,
        extractions=extractions,
        trainer=trainer,
        driver=driver,
        upkeep=upkeep,
        dispatcher=dispatcher,
        webhook_work=webhook_work,
        app=app,
        operator=_client(app, secrets[OPERATOR_TENANT]),
        alice=_client(app, secrets["alice"]),
        bob=_client(app, secrets["bob"]),
        anonymous=_client(app, None),
        sweeping=asyncio.create_task(dispatcher.sweep_forever()) if sweeps else None,
    )


async def public_names(_host: str, _port: int) -> Sequence[str]:
    """A resolver to which every name is one of the public internet; addresses never get here."""
    return ["93.184.216.34"]


def served_catalog() -> dict[str, ModelSpec]:
    catalog = load_catalog()
    return {model_id: catalog[model_id] for model_id in MODELS}


def a_request(**changes: Any) -> GenerationRequest:
    values: dict[str, Any] = {
        "model_id": MODELS[0],
        "prompt": "a red apple",
        "negative_prompt": "",
        "width_px": 64,
        "height_px": 64,
        "num_images": 1,
        "seed": 7,
        "num_inference_steps": 2,
        "guidance_scale": 4.5,
    }
    return GenerationRequest(**(values | changes))


def a_job(
    *,
    tenant: str = "alice",
    priority: Any = "normal",
    user: str | None = None,
    expires_in_s: float = 3_600.0,
    webhook_url: str | None = None,
    **request: Any,
) -> Job:
    return new_job(
        a_request(**request),
        tenant=tenant,
        kind="image",
        priority=priority,
        metadata={},
        user=user,
        request_id="req_test",
        expires_in_s=expires_in_s,
        webhook_url=webhook_url,
    )


def _client(app: ASGIApp, key: str | None) -> httpx.AsyncClient:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    # The server's own fault must come back as its answer, as it does over a socket.
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://darkroom.test", headers=headers, timeout=60.0)
