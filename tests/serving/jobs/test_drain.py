"""Draining: nothing more is claimed, what runs may finish, the rest goes back into line at once and without blame."""

import asyncio
from typing import Any

import pytest

from serving.errors import Unavailable
from serving.jobs.job import Job, Line
from serving.jobs.lane import Place
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, eventually

SLOW = {"lease_s": 60.0, "heartbeat_s": 20.0}  # a job left to its lease is not there again within any test


def driving(house: House, *jobs: Job) -> "list[asyncio.Task[Job | None]]":
    return [asyncio.create_task(house.dispatcher.drive(Place.of(job))) for job in jobs]


async def soon(work: Any) -> Any:
    return await asyncio.wait_for(work, 15)


async def now(house: House, job: Job) -> Job:
    return await house.store.get(job.tenant, job.id)


async def check_it_is_free(house: House, *jobs: Job, attempts: int) -> None:
    """In line, claimable by anybody at once, and no worse off than before."""
    for job in jobs:
        stored = await now(house, job)
        assert (stored.status, stored.attempts, stored.owner) == ("queued", attempts, None)
        assert (stored.failures, stored.lost_workers, stored.history) == (0, 0, ())
        assert await house.store.claim(job.id, owner="router-2") is not None


async def test_what_runs_finishes_and_what_waits_stays_in_line(houses: OpenHouse) -> None:
    house = await houses(lane_width=2, jobs=SLOW, sweeps=False)
    house.backend.gate.clear()
    running, waiting = [await house.insert() for _ in range(2)], [await house.insert() for _ in range(3)]
    drives = driving(house, *running)
    await eventually(lambda: house.backend.num_running == 2)
    drives += driving(house, *waiting[:2])
    draining = asyncio.create_task(house.dispatcher.drain(deadline_s=10))
    await asyncio.sleep(0.05)
    assert not draining.done()
    house.backend.gate.set()
    await soon(draining)
    assert [end and end.status for end in await soon(asyncio.gather(*drives))] == ["succeeded"] * 2 + [None] * 2
    assert sorted(house.backend.calls) == sorted(job.id for job in running)
    await check_it_is_free(house, *waiting, attempts=0)


async def test_nothing_is_claimed_any_more_though_the_sweep_goes_on(houses: OpenHouse) -> None:
    house = await houses(jobs=SLOW)
    await soon(house.dispatcher.drain(deadline_s=10))
    job = await house.insert()
    assert await soon(house.dispatcher.drive(Place.of(job))) is None
    assert [news async for news in house.dispatcher.follow(Place.of(job))] == []
    await asyncio.sleep(0.3)  # several sweeps
    assert house.backend.calls == []
    await check_it_is_free(house, job, attempts=0)


@pytest.mark.parametrize("deadline_s", [0.0, 0.1])
@pytest.mark.parametrize("way", ["pushed", "found"])
async def test_what_does_not_finish_in_time_is_handed_back_and_made_by_another_at_once(
    houses: OpenHouse, deadline_s: float, way: str
) -> None:
    house = await houses(lane_width=3, jobs=SLOW, sweeps=way == "found")
    house.backend.gate.clear()
    jobs = [await house.insert(num_images=2) for _ in range(2)]
    drives = driving(house, *jobs) if way == "pushed" else []
    await eventually(lambda: house.backend.num_running == len(house.backend.calls) >= 1)
    await soon(house.dispatcher.drain(deadline_s=deadline_s))
    assert (house.backend.num_running, house.blobs.keys) == (0, [])
    assert [end for end in await soon(asyncio.gather(*drives)) if end] == []
    other = await houses(jobs=SLOW)
    for job in jobs:
        ended = await other.until(job, "succeeded")
        assert (ended.failures, ended.lost_workers, ended.history) == (0, 0, ())
        assert ended.result is not None
        assert [image.seed for image in ended.result.images] == [7, 8]


@pytest.mark.parametrize("way", ["claim", "claim_next"])
async def test_a_claim_that_is_under_way_is_handed_back(
    houses: OpenHouse, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The database has made the job ours, and its answer is still on the way."""
    house = await houses(jobs=SLOW, sweeps=way == "claim_next")
    claim, is_claimed, may_answer = getattr(house.driver, way), asyncio.Event(), asyncio.Event()

    async def answered_late(wanted: Any) -> Job | None:
        job: Job | None = await claim(wanted)
        if job is not None:
            is_claimed.set()
            await may_answer.wait()
        return job

    monkeypatch.setattr(house.driver, way, answered_late)
    job = await house.insert()
    drives = driving(house, job) if way == "claim" else []
    await soon(is_claimed.wait())
    draining = asyncio.create_task(house.dispatcher.drain(deadline_s=0.0))
    await asyncio.sleep(0.05)
    may_answer.set()
    await soon(draining)
    assert await soon(asyncio.gather(*drives)) == [None] * len(drives)
    assert house.backend.calls == []
    await check_it_is_free(house, job, attempts=1)


async def test_a_claim_called_off_on_its_way_leaves_its_place_to_the_next(
    houses: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await houses(jobs=SLOW, sweeps=False, lane_width=1)
    claim, is_claimed, may_answer = house.driver.claim, asyncio.Event(), asyncio.Event()

    async def answered_late(job_id: str) -> Job | None:
        job = await claim(job_id)
        is_claimed.set()
        await may_answer.wait()
        return job

    monkeypatch.setattr(house.driver, "claim", answered_late)
    called_off, following = await house.insert(), await house.insert()
    drives = driving(house, called_off, following)
    await soon(is_claimed.wait())
    await house.store.cancel("alice", called_off.id)
    house.dispatcher.call_off(called_off.id)
    may_answer.set()
    ends = await soon(asyncio.gather(*drives))
    assert [end and end.id for end in ends] == [None, following.id]
    assert (await now(house, called_off)).status == "cancelled"
    assert house.backend.calls == [following.id]


async def test_a_job_that_was_just_handed_to_its_waiter_is_not_let_go(
    houses: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ticket of the line has claimed it, and the drive that waits for it has not woken up yet."""
    house = await houses(lane_width=1, jobs=SLOW)
    house.backend.gate.clear()
    blocker = await house.insert(tenant="bob")
    await eventually(lambda: house.backend.num_running == 1)
    older, handed_over = sorted([await house.insert() for _ in range(2)], key=lambda job: job.id)
    drives = driving(house, handed_over)
    lane = house.dispatcher._lanes[handed_over.model_id]
    hand_over, drains = lane.hand_over, list[asyncio.Task[None]]()

    def and_drain(job: Job) -> bool:
        if job.id == handed_over.id:
            drains.append(asyncio.create_task(house.dispatcher.drain(deadline_s=10)))
        return hand_over(job)

    monkeypatch.setattr(lane, "hand_over", and_drain)

    async def is_found() -> bool:
        return Line.of(older) in house.dispatcher._tickets

    await eventually(is_found)
    house.backend.gate.set()
    await eventually(lambda: drains)
    await soon(drains[0])
    (ended,) = await soon(asyncio.gather(*drives))
    assert ended is not None
    assert (ended.id, ended.status, ended.attempts) == (handed_over.id, "succeeded", 1)
    assert house.backend.calls == [blocker.id, older.id, handed_over.id]


async def test_a_database_that_is_away_does_not_keep_a_router_from_leaving(
    houses: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await houses(sweeps=False, jobs=SLOW)
    house.backend.gate.clear()
    job = await house.insert()
    drives = driving(house, job)
    await eventually(lambda: house.backend.num_running == 1)

    async def away(_job: Job) -> Job:
        raise Unavailable("the database is away")

    monkeypatch.setattr(house.store, "hand_back", away)
    await soon(house.dispatcher.drain(deadline_s=0.05))
    assert await soon(drives[0]) is None
    assert (await now(house, job)).status == "running"  # its lease brings it back


async def test_draining_twice_or_with_nothing_to_do_is_no_error(houses: OpenHouse) -> None:
    house = await houses(jobs=SLOW)
    for _ in range(2):
        await soon(house.dispatcher.drain(deadline_s=10))
    busy = await houses(jobs=SLOW, sweeps=False)
    busy.backend.gate.clear()
    job = await busy.insert()
    drives = driving(busy, job)
    await eventually(lambda: busy.backend.num_running == 1)
    await soon(asyncio.gather(*(busy.dispatcher.drain(deadline_s=0.05) for _ in range(2))))
    assert await soon(drives[0]) is None
    await check_it_is_free(busy, job, attempts=1)


async def test_a_rolling_restart_under_load_fails_nothing_and_blames_nobody(houses: OpenHouse) -> None:
    routers = [await houses(lane_width=2, jobs=SLOW) for _ in range(2)]
    for router in routers:
        router.backend.step_s = 0.005
    jobs: list[Job] = []
    for index in range(60):
        jobs.append(await routers[0].insert(tenant=f"t{index % 3}", seed=index))
        if index % 2:
            driving(routers[-1], jobs[-1])
        if index in (20, 40):
            newer = await houses(lane_width=2, jobs=SLOW)
            newer.backend.step_s = 0.005
            await soon(routers.pop(0).dispatcher.drain(deadline_s=0.01))
            routers.append(newer)
    for job in jobs:
        ended = await routers[0].until(job, "succeeded")
        assert (ended.failures, ended.lost_workers, ended.history) == (0, 0, ())
        assert ended.result is not None
        assert [image.seed for image in ended.result.images] == [job.request.seed]
