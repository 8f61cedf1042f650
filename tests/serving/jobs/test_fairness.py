"""Fair turns over a true database: by device seconds, over all Routers, however many jobs one tenant has queued."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from models.errors import GenerationError
from serving.jobs.documents import job_to_document
from serving.jobs.job import Job
from serving.jobs.lane import Place
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, a_job, eventually

NEVER_FORGET = {"share_half_life_s": 1e9, "lease_s": 60.0, "heartbeat_s": 20.0}


async def queue_up(raw: Any, *jobs: Job) -> None:
    """Many at once; no Router is told of any."""
    await raw["jobs"].insert_many([job_to_document(job) for job in jobs])


def many(num_jobs: int, **changes: Any) -> list[Job]:
    """Oldest first."""
    return sorted((a_job(**changes) for _ in range(num_jobs)), key=lambda job: job.id)


async def looked(house: House, times: int = 2) -> None:
    """Until the sweep has begun to look at the queue so many times from now on, and so knows what there is."""
    looks: list[int] = []
    exchange = house.dispatcher._shares.exchange

    async def counted() -> None:
        looks.append(1)
        await exchange()

    house.dispatcher._shares.exchange = counted  # type: ignore[method-assign]
    await eventually(lambda: len(looks) > times)


def push(house: House, *jobs: Job) -> "list[asyncio.Task[Job | None]]":
    return [asyncio.create_task(house.dispatcher.drive(Place.of(job))) for job in jobs]


def tenants_of(calls: list[str], jobs: list[Job]) -> list[str]:
    tenants = {job.id: job.tenant for job in jobs}
    return [tenants[job_id] for job_id in calls]


@pytest.mark.parametrize(
    ("lane_width", "way", "num_queued"),
    [(1, "found", 10_000), (4, "found", 1_000), (1, "pushed", 1_000), (4, "pushed", 1_000)],
)
async def test_thousands_of_queued_jobs_of_one_tenant_hold_up_anothers_first_by_no_more_than_a_place(
    houses: OpenHouse, raw: Any, lane_width: int, way: str, num_queued: int
) -> None:
    """They take no time of the device that anybody could measure, and count all the same."""
    house = await houses(lane_width=lane_width, jobs=NEVER_FORGET)
    house.backend.gate.clear()
    flood = many(num_queued, tenant="alice")
    await queue_up(raw, *flood)
    pushes = push(house, *flood) if way == "pushed" else []
    await eventually(lambda: house.backend.num_running == lane_width)
    await looked(house)
    late = [await house.insert(tenant="bob"), await house.insert(tenant="carol")]
    pushes += push(house, *late) if way == "pushed" else []
    await looked(house)
    house.backend.gate.set()
    for job in late:
        await house.until(job, "succeeded")
    before = house.backend.calls[:lane_width]
    assert set(tenants_of(before, flood)) == {"alice"}
    # The first two places that come free go to them. Places that come free together race each other to the backend.
    next_calls = house.backend.calls[lane_width : lane_width + max(2, lane_width)]
    assert {job.id for job in late} <= set(next_calls)
    await house.dispatcher.drain(deadline_s=0.0)
    await asyncio.gather(*pushes)


async def test_with_two_routers_a_first_job_waits_for_one_job_of_each_at_most(houses: OpenHouse, raw: Any) -> None:
    routers = [await houses(lane_width=1, jobs=NEVER_FORGET) for _ in range(2)]
    for router in routers:
        router.backend.gate.clear()
    await queue_up(raw, *many(200, tenant="alice"))
    await eventually(lambda: all(router.backend.num_running == 1 for router in routers))
    late = await routers[0].insert(tenant="bob")
    for router in routers:
        await looked(router)
    for router in routers:
        router.backend.gate.set()
    await routers[0].until(late, "succeeded")
    calls = [router.backend.calls for router in routers]
    made_by = next(index for index, of_one in enumerate(calls) if late.id in of_one)
    assert calls[made_by].index(late.id) == 1


@pytest.mark.parametrize("lane_width", [1, 4])
@pytest.mark.parametrize("way", ["found", "pushed"])
async def test_turns_are_shared_by_seconds_of_the_device_and_not_by_jobs(
    houses: OpenHouse, raw: Any, lane_width: int, way: str
) -> None:
    """One tenant's jobs take ten times as long as the other's, who therefore has ten times as many made."""
    house = await houses(lane_width=lane_width, jobs=NEVER_FORGET, sweeps=False)
    house.backend.step_device_s = 1.0
    costs = {"alice": 20, "bob": 2}
    jobs = many(60, tenant="alice", num_inference_steps=costs["alice"])
    jobs += many(350, tenant="bob", num_inference_steps=costs["bob"])
    await queue_up(raw, *jobs)
    pushes = push(house, *jobs) if way == "pushed" else []
    sweeping = asyncio.create_task(house.dispatcher.sweep_forever())
    await eventually(lambda: sum(tenant == "bob" for tenant in tenants_of(house.backend.calls, jobs)) >= 320)
    order = tenants_of(house.backend.calls, jobs)
    used: Counter[str] = Counter()
    for tenant in order:
        used[tenant] += costs[tenant]
        # Before the first job has ended nobody knows what they take; what was given then is made up for.
        assert abs(used["alice"] - used["bob"]) <= 2 * (lane_width + 1) * costs["alice"]
    assert used["bob"] == pytest.approx(used["alice"], rel=0.25)
    await house.dispatcher.drain(deadline_s=0.0)
    sweeping.cancel()
    await asyncio.gather(*pushes)


async def test_tenants_with_equal_jobs_take_turns_however_unequal_their_queues(houses: OpenHouse, raw: Any) -> None:
    house = await houses(lane_width=1, jobs=NEVER_FORGET, sweeps=False)
    house.backend.step_device_s = 1.0
    jobs = [job for index, length in enumerate((40, 10, 20, 10)) for job in many(length, tenant=f"t{index}")]
    await queue_up(raw, *jobs)
    sweeping = asyncio.create_task(house.dispatcher.sweep_forever())
    await eventually(lambda: len(house.backend.calls) == len(jobs))
    order = tenants_of(house.backend.calls, jobs)
    for first in range(4, 36, 4):  # the first turns are given before all lines are known
        assert set(order[first : first + 4]) == {"t0", "t1", "t2", "t3"}
    by_tenant: dict[str, list[str]] = {}
    for job_id, tenant in zip(house.backend.calls, order, strict=True):
        by_tenant.setdefault(tenant, []).append(job_id)
    assert all(calls == sorted(calls) for calls in by_tenant.values())
    sweeping.cancel()


async def test_jobs_that_fail_at_once_do_not_go_before_everybody_elses(houses: OpenHouse, raw: Any) -> None:
    house = await houses(lane_width=1, jobs=NEVER_FORGET, sweeps=False)
    house.backend.step_device_s = 1.0
    make = house.backend.make

    async def fails_for_alice(order: Any, **more: Any) -> Any:
        if order.request.prompt == "bad":
            house.backend.troubles.append(GenerationError("no"))
        return await make(order, **more)

    house.backend.make = fails_for_alice  # type: ignore[method-assign]
    jobs = many(300, tenant="alice", prompt="bad") + many(3, tenant="bob")
    await queue_up(raw, *jobs)
    sweeping = asyncio.create_task(house.dispatcher.sweep_forever())
    await house.until(jobs[-1], "succeeded")
    # Before the first success a failure counts for next to nothing, and afterwards as much as a success.
    assert house.backend.calls.index(jobs[-1].id) <= 10
    sweeping.cancel()


async def test_priority_goes_before_fairness(houses: OpenHouse, raw: Any) -> None:
    house = await houses(lane_width=1, jobs=NEVER_FORGET, sweeps=False)
    house.backend.step_device_s = 1.0
    greedy = many(5, tenant="alice", priority="high", num_inference_steps=20)
    modest = many(5, tenant="bob", priority="normal") + many(5, tenant="carol", priority="low")
    await queue_up(raw, *greedy, *modest)
    sweeping = asyncio.create_task(house.dispatcher.sweep_forever())
    await eventually(lambda: len(house.backend.calls) == 15)
    assert house.backend.calls == [job.id for job in greedy + modest]
    sweeping.cancel()


async def test_what_a_tenant_used_at_one_router_counts_at_another(houses: OpenHouse) -> None:
    one = await houses(lane_width=1, jobs=NEVER_FORGET)
    one.backend.step_device_s = 50.0
    await one.until(await one.insert(tenant="alice"), "succeeded")
    await looked(one)
    assert one.sweeping is not None
    one.sweeping.cancel()
    other = await houses(lane_width=1, jobs=NEVER_FORGET)
    other.backend.gate.clear()
    blocker = await other.insert(tenant="carol")
    await eventually(lambda: other.backend.num_running == 1)
    older, newer = await other.insert(tenant="alice"), await other.insert(tenant="bob")
    await looked(other)
    other.backend.gate.set()
    await other.until(older, "succeeded")
    assert other.backend.calls == [blocker.id, newer.id, older.id]


async def test_a_job_handed_back_or_failed_still_counts_for_what_it_took(houses: OpenHouse, raw: Any) -> None:
    house = await houses(lane_width=1, jobs=NEVER_FORGET, sweeps=False)
    house.backend.step_device_s = 3.0
    house.backend.gate.clear()
    job = await house.insert(tenant="alice", num_inference_steps=4)
    drives = push(house, job)
    await eventually(lambda: house.backend.num_running == 1)
    await asyncio.sleep(0.05)
    await house.store.cancel("alice", job.id)
    house.dispatcher.call_off(job.id)
    await asyncio.gather(*drives)
    await house.dispatcher._shares.exchange()
    (share,) = await raw["shares"].find({}).to_list(10)
    assert share["_id"] == "alice"
    assert house.dispatcher._shares.used_s("alice") == pytest.approx(12.0, rel=0.01)


async def test_the_pace_of_jobs_is_measured_and_told(houses: OpenHouse, raw: Any) -> None:
    house = await houses(lane_width=2, jobs=NEVER_FORGET)
    house.backend.step_s = 0.01
    house.backend.step_device_s = 0.5
    jobs = [await house.insert() for _ in range(6)]
    for job in jobs:
        await house.until(job, "succeeded")

    async def is_told() -> bool:
        return await raw["paces"].count_documents({}) == 1

    await eventually(is_told)
    (pace,) = await raw["paces"].find({}).to_list(10)
    assert pace["model"] == jobs[0].model_id
    assert 0.02 <= pace["mean_s"] <= 10
    assert pace["jobs_per_s"] >= 1 / pace["mean_s"] * 0.9
