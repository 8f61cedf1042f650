"""A whole Darkroom in one process: true routes, driver and dispatcher over a true MongoDB; no Ray, no GPU, no S3."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp

from configs.settings import MongoSettings, Settings
from models.catalog import load_catalog
from models.spec import ModelSpec
from pipelines.request import GenerationRequest
from serving.adapters.store import AdapterStore
from serving.api.app import build_app
from serving.api.deps import OPERATOR_TENANT, Services
from serving.jobs.dispatcher import Dispatcher
from serving.jobs.driver import Driver
from serving.jobs.job import Job, Status, new_job
from serving.jobs.store import JobStore
from serving.jobs.submission import Submission
from serving.mongo import Mongo
from serving.tenancy.auth import KeyRing
from serving.tenancy.tenants import Tenants
from tests.fakes import FakeBackend, LocalRouterLink, MemoryBlobs

MODELS = ("emoji-3d", "flux-schnell")  # one that takes everything, one without guidance and negative prompt
JOB_SETTINGS: dict[str, Any] = {"lease_s": 4.0, "heartbeat_s": 1.0, "poll_s": 0.05, "retry_base_s": 0.05}
WAIT_DEADLINE_S = 20.0


@dataclass(frozen=True)
class House:
    """The parts, and a key for each kind of caller: the operator, and two members of two tenants."""

    services: Services
    backends: Mapping[str, FakeBackend]
    blobs: MemoryBlobs
    router: LocalRouterLink
    driver: Driver
    dispatcher: Dispatcher
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
        return await self.driver.drive(job.id, waited_s=0.0)

    async def until(self, job: Job, status: Status) -> Job:
        async def has_it() -> bool:
            return (await self.store.get(job.tenant, job.id)).status == status

        await eventually(has_it)
        return await self.store.get(job.tenant, job.id)

    async def close(self) -> None:
        if self.sweeping is not None:
            self.sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await self.sweeping
        for client in (self.operator, self.alice, self.bob, self.anonymous):
            await client.aclose()
        await self.mongo.close()


async def open_house(
    mongo: MongoSettings,
    *,
    jobs: Mapping[str, Any] | None = None,
    api: Mapping[str, Any] | None = None,
    lane_width: int = 4,
    sweeps: bool = True,
    make_mongo: Callable[[MongoSettings], Mongo] = Mongo,
) -> House:
    settings = Settings.model_validate(
        {
            "mongo": mongo,
            "jobs": {**JOB_SETTINGS, **(jobs or {})},
            "api": dict(api or {}),
            "models": {"enabled": list(MODELS)},
        }
    )
    gate = make_mongo(settings.mongo)
    await gate.make_indexes()
    catalog = served_catalog()
    store = JobStore(gate, settings.jobs)
    blobs = MemoryBlobs()
    adapters = AdapterStore(gate, blobs)
    backends = {model_id: FakeBackend(model_id) for model_id in MODELS}
    driver = Driver(store, blobs, {b.id: b for b in backends.values()}, settings=settings.jobs, owner="router-1")
    dispatcher = Dispatcher(driver, store, list(MODELS), settings=settings.jobs, lane_width=lane_width)
    router = LocalRouterLink(dispatcher, list(backends.values()))
    services = Services(
        settings=settings,
        catalog=catalog,
        mongo=gate,
        blobs=blobs,
        keys=KeyRing(gate),
        tenants=Tenants(gate),
        store=store,
        adapters=adapters,
        submission=Submission(store, blobs, adapters, catalog, settings),
        router=router,
    )
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
        driver=driver,
        dispatcher=dispatcher,
        app=app,
        operator=_client(app, secrets[OPERATOR_TENANT]),
        alice=_client(app, secrets["alice"]),
        bob=_client(app, secrets["bob"]),
        anonymous=_client(app, None),
        sweeping=asyncio.create_task(dispatcher.sweep_forever()) if sweeps else None,
    )


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


def a_job(*, tenant: str = "alice", priority: Any = "normal", user: str | None = None, **request: Any) -> Job:
    return new_job(
        a_request(**request),
        tenant=tenant,
        kind="image",
        priority=priority,
        metadata={},
        user=user,
        request_id="req_test",
    )


@asynccontextmanager
async def on_a_port(app: ASGIApp) -> AsyncIterator[str]:
    """The application behind a true server and socket, where answers stream and clients can hang up; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await eventually(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


async def eventually(condition: Callable[[], Any], *, timeout_s: float = WAIT_DEADLINE_S) -> None:
    """Waits until `condition`, a function or a coroutine function, is true."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        outcome = condition()
        if await outcome if asyncio.iscoroutine(outcome) else outcome:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not become true in time")


def _client(app: ASGIApp, key: str | None) -> httpx.AsyncClient:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    # The server's own fault must come back as its answer, as it does over a socket.
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://darkroom.test", headers=headers, timeout=60.0)
