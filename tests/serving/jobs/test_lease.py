"""The driver under its lease: kept while the backend works, and once lost nothing more is written."""

import asyncio
import time
from typing import Any

import pytest

from serving.errors import LeaseLost, Unavailable
from serving.jobs.job import Job
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, eventually

SHORT = {"lease_s": 0.6, "heartbeat_s": 0.15}


async def driven(house: House, job: Job) -> Job:
    ended = await house.drive(job)
    assert ended is not None
    return ended


async def test_the_heartbeat_keeps_the_lease_over_a_run_of_many_leases(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs=SHORT)
    house.backend.gate.clear()
    job = await house.insert()
    running = asyncio.create_task(house.drive(job))
    deadline = time.monotonic() + 2.5 * SHORT["lease_s"]
    while time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        assert await house.upkeep.due(limit=10) == []
    house.backend.gate.set()
    ended = await running
    assert ended is not None
    assert (ended.status, ended.attempts, ended.fence) == ("succeeded", 1, 1)


async def test_a_lease_lost_in_mid_run_stops_the_backend_and_writes_nothing(houses: OpenHouse, raw: Any) -> None:
    house = await houses(sweeps=False, jobs=SHORT)
    house.backend.gate.clear()
    job = await house.insert()
    running = asyncio.create_task(house.drive(job))
    await eventually(lambda: house.backend.calls)
    await raw["jobs"].update_one({"_id": job.id}, {"$set": {"owner": "router-2"}, "$inc": {"fence": 1, "attempts": 1}})
    theirs = await house.store.get("alice", job.id)
    assert await running is None
    assert house.backend.num_cancelled == 1
    assert house.backend.num_running == 0
    assert await house.store.get("alice", job.id) == theirs
    assert house.blobs.keys == []


async def test_a_lease_lost_while_the_pictures_were_uploaded_commits_nothing(
    houses: OpenHouse, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await houses(sweeps=False)
    job = await house.insert()
    succeed = house.store.succeed

    async def succeed_too_late(*args: Any, **kwargs: Any) -> Job:
        await raw["jobs"].update_one({"_id": job.id}, {"$set": {"owner": "router-2"}, "$inc": {"fence": 1}})
        return await succeed(*args, **kwargs)

    monkeypatch.setattr(house.store, "succeed", succeed_too_late)
    assert await house.drive(job) is None
    left = await house.store.get("alice", job.id)
    assert (left.status, left.owner, left.result) == ("running", "router-2", None)
    assert house.blobs.keys == []
    monkeypatch.setattr(house.store, "succeed", succeed)
    assert await house.upkeep.release(left)
    ended = await house.try_again(job)
    assert ended is not None
    assert ended.result is not None
    # Each attempt stores under its own fence: 1 was the loser's, 2 router-2's, 3 the release, 4 the winner's.
    assert [image.key.rsplit("/")[-1] for image in ended.result.images] == ["4-0.png"]
    assert house.blobs.keys == [image.key for image in ended.result.images]


async def test_a_job_over_its_deadline_fails_and_the_backend_is_freed(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"run_deadline_s": 0.3})
    house.backend.gate.clear()
    ended = await driven(house, await house.insert())
    assert ended.error is not None
    assert (ended.status, ended.error.code) == ("failed", "deadline")
    assert (house.backend.num_cancelled, house.backend.num_running) == (1, 0)


async def test_a_lease_lost_at_the_deadline_is_no_error(houses: OpenHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    house = await houses(sweeps=False, jobs={"run_deadline_s": 0.2})
    house.backend.gate.clear()

    async def lost(*_args: Any, **_more: Any) -> Job:
        raise LeaseLost("taken over")

    monkeypatch.setattr(house.store, "fail", lost)
    assert await house.drive(await house.insert()) is None
    assert house.backend.num_running == 0


async def test_heartbeats_that_fail_for_a_while_do_not_end_the_run(
    houses: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await houses(sweeps=False, jobs=SHORT)
    house.backend.gate.clear()
    misses: list[int] = []

    async def away(_job: Job) -> None:
        misses.append(1)
        raise Unavailable("the database is away")

    monkeypatch.setattr(house.store, "renew", away)
    job = await house.insert()
    running = asyncio.create_task(house.drive(job))
    await eventually(lambda: len(misses) >= 2)
    house.backend.gate.set()
    ended = await running
    assert ended is not None
    assert ended.status == "succeeded"


async def test_a_bug_in_a_backend_leaves_the_job_to_the_lease_and_the_next_attempt(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"lease_s": 0.3, "heartbeat_s": 0.1})
    house.backend.troubles.append(ZeroDivisionError("a bug"))
    job = await house.insert()
    with pytest.raises(ZeroDivisionError):
        await house.drive(job)
    assert await house.drive(job) is None

    async def is_due() -> bool:
        return [found.id for found in await house.upkeep.due(limit=10)] == [job.id]

    await eventually(is_due)
    assert await house.upkeep.release(await house.store.get("alice", job.id))
    ended = await house.try_again(job)
    assert ended is not None
    assert (ended.status, ended.lost_workers) == ("succeeded", 1)
