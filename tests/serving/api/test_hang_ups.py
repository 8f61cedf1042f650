"""Clients that hang up, over a true socket and as Ray Serve tells it: who made no arrangement loses the job."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from serving.api.hang_ups import HungUp, unless_hung_up
from serving.errors import Unavailable
from serving.jobs.job import Job
from tests.serving.api.conftest import EDITS, GOOD, NATIVE, OPENAI, picture_bytes
from tests.serving.house import House, eventually, on_a_port

STREAM = {**GOOD, "stream": True, "partial_images": 2}
KEEPING = [{"Idempotency-Key": "k1"}, {"Prefer": "respond-async, wait=30"}, {"Prefer": "respond-async,wait=30"}]
Call = Callable[[httpx.AsyncClient, dict[str, str]], Awaitable[httpx.Response]]


def posting(path: str, body: dict[str, Any]) -> Call:
    return lambda client, headers: client.post(path, json=body, headers=headers)


def editing(client: httpx.AsyncClient, headers: dict[str, str]) -> Awaitable[httpx.Response]:
    return client.post(EDITS, data={"prompt": "x"}, files={"image": picture_bytes()}, headers=headers)


CALLS = [posting(OPENAI, GOOD), posting(OPENAI, STREAM), editing]


@asynccontextmanager
async def over_a_socket(house: House) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        on_a_port(house.app) as url,
        httpx.AsyncClient(base_url=url, headers=house.alice.headers, timeout=20) as client,
    ):
        yield client


async def hang_up_during(house: House, call: Awaitable[httpx.Response]) -> Job:
    """The job as it stands when its client, who saw it begin, has gone."""
    house.backend.gate.clear()
    calling = asyncio.ensure_future(call)
    await eventually(lambda: house.backend.num_running == 1)
    calling.cancel()
    await asyncio.wait({calling})
    (job,) = await house.store.page("alice", status=None, kind=None, limit=9, after=None)
    return job


@pytest.mark.parametrize("call", CALLS, ids=["generation", "stream", "edit"])
async def test_over_a_socket_the_job_is_cancelled_and_its_engine_free(house: House, call: Call) -> None:
    async with over_a_socket(house) as client:
        job = await hang_up_during(house, call(client, {}))
        await house.until(job, "cancelled")
        await eventually(lambda: house.backend.num_running == 0)
    assert house.backend.num_cancelled == 1


@pytest.mark.parametrize("call", CALLS, ids=["generation", "stream", "edit"])
async def test_a_call_that_its_server_cancels_has_its_job_cancelled(house: House, call: Call) -> None:
    """As Ray Serve tells a handler that the client has gone; the clearing up outlives the handler."""
    job = await hang_up_during(house, call(house.alice, {}))
    await house.until(job, "cancelled")
    await eventually(lambda: house.backend.num_running == 0)


@pytest.mark.parametrize("headers", KEEPING)
@pytest.mark.parametrize("call", CALLS, ids=["generation", "stream", "edit"])
async def test_a_job_that_the_client_asked_to_keep_is_made(house: House, call: Call, headers: dict[str, str]) -> None:
    async with over_a_socket(house) as client:
        job = await hang_up_during(house, call(client, headers))
        house.backend.gate.set()
        await house.until(job, "succeeded")


async def test_a_native_call_keeps_its_job(house: House) -> None:
    async with over_a_socket(house) as client:
        job = await hang_up_during(house, client.post(NATIVE, json=GOOD, headers={"Prefer": "wait=30"}))
        house.backend.gate.set()
        await house.until(job, "succeeded")


async def test_a_listener_that_hangs_up_does_not_cancel_what_it_listened_to(house: House) -> None:
    house.backend.gate.clear()
    job = await house.insert()
    async with over_a_socket(house) as client:
        async with client.stream("GET", f"/v1/jobs/{job.id}/events") as answer:
            await anext(answer.aiter_lines())
            await eventually(lambda: house.router.num_following == 1)
        await eventually(lambda: house.router.num_following == 0)
        house.backend.gate.set()
        await house.until(job, "succeeded")


async def test_a_client_that_goes_while_its_job_is_stored_leaves_no_job_behind(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_storing, may_store = asyncio.Event(), asyncio.Event()
    insert = house.store.insert

    async def slowly(job: Job) -> None:
        is_storing.set()
        await may_store.wait()
        await insert(job)

    monkeypatch.setattr(house.store, "insert", slowly)
    calling = asyncio.create_task(house.alice.post(OPENAI, json=GOOD))
    await asyncio.wait_for(is_storing.wait(), 5)
    calling.cancel()
    await asyncio.wait({calling})
    may_store.set()
    await eventually(lambda: house.router.cancelled)
    (job,) = await house.store.page("alice", status=None, kind=None, limit=9, after=None)
    assert job.status == "cancelled"


async def test_a_database_that_is_away_for_a_moment_does_not_save_the_job(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.api.hang_ups.CALL_OFF_PAUSE_S", 0.01)
    cancel, refusals = house.store.cancel, iter([Unavailable("away"), Unavailable("away")])

    async def away_at_first(tenant: str, job_id: str) -> Job:
        for refusal in refusals:
            raise refusal
        return await cancel(tenant, job_id)

    monkeypatch.setattr(house.store, "cancel", away_at_first)
    await house.until(await hang_up_during(house, house.alice.post(OPENAI, json=GOOD)), "cancelled")


async def test_hanging_up_after_the_job_has_ended_changes_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture was made, and the client goes while it is being read from the bucket."""
    is_reading, reader = asyncio.Event(), asyncio.get_running_loop()

    def slowly(key: str) -> bytes:
        reader.call_soon_threadsafe(is_reading.set)
        return type(house.blobs).get(house.blobs, key)

    monkeypatch.setattr(house.blobs, "get", slowly)
    async with over_a_socket(house) as client, client.stream("POST", OPENAI, json={**GOOD, "stream": True}):
        await asyncio.wait_for(is_reading.wait(), 5)
    (job,) = await house.store.page("alice", status=None, kind=None, limit=9, after=None)
    assert job.status == "succeeded"


async def test_work_that_ends_first_gives_its_outcome() -> None:
    async def silent() -> Any:
        await asyncio.Event().wait()

    async def work() -> int:
        return 7

    assert await unless_hung_up(silent, work()) == 7


async def test_a_hang_up_stops_the_work() -> None:
    is_stopped = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            is_stopped.set()

    async def gone() -> Any:
        await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    with pytest.raises(HungUp):
        await unless_hung_up(gone, work())
    assert is_stopped.is_set()


async def test_a_receive_that_breaks_is_no_hang_up() -> None:
    async def broken() -> Any:
        raise ConnectionError("the proxy was lost")

    async def work() -> int:
        await asyncio.sleep(0.02)
        return 7

    assert await unless_hung_up(broken, work()) == 7
