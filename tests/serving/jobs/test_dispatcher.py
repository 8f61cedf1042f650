"""The dispatcher: order of jobs, one run for a job however often it is asked for, and jobs nobody was told of."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from serving.errors import BackendLost, Unavailable
from serving.jobs.job import Job, Line
from serving.jobs.lane import Place
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, a_job, eventually


def by_age(jobs: list[Job]) -> list[Job]:
    """As lines order them: of two jobs of one millisecond, their ids decide."""
    return sorted(jobs, key=lambda job: job.id)


async def test_jobs_go_to_the_engine_by_priority_and_then_by_age(houses: OpenHouse) -> None:
    house = await houses(lane_width=1, sweeps=False)
    house.backend.gate.clear()
    wanted = {name: a_job(priority=priority) for name, priority in [("low", "low"), ("high", "high")]}
    old = a_job()
    wanted |= {"new": replace(a_job(), id=old.id + "0"), "old": old}
    blocker = await house.insert()
    driving = [asyncio.create_task(house.dispatcher.drive(Place.of(blocker)))]
    await eventually(lambda: house.backend.calls)
    for job in wanted.values():
        await house.store.insert(job)
        driving.append(asyncio.create_task(house.dispatcher.drive(Place.of(job))))
    await asyncio.sleep(0)
    house.backend.gate.set()
    await asyncio.gather(*driving)
    assert house.backend.calls == [blocker.id, *(wanted[name].id for name in ("high", "old", "new", "low"))]


async def test_a_lane_holds_no_more_than_its_width(houses: OpenHouse) -> None:
    house = await houses(lane_width=2, sweeps=False)
    house.backend.gate.clear()
    jobs = [await house.insert() for _ in range(6)]
    driving = [asyncio.create_task(house.dispatcher.drive(Place.of(job))) for job in jobs]
    await eventually(lambda: house.backend.num_running == 2)
    await asyncio.sleep(0.1)
    house.backend.gate.set()
    await asyncio.gather(*driving)
    assert house.backend.most_running == 2
    assert sorted(house.backend.calls) == sorted(job.id for job in jobs)


async def test_a_model_does_not_wait_for_another(houses: OpenHouse) -> None:
    house = await houses(lane_width=1, sweeps=False)
    house.backend.gate.clear()
    slow, quick = await house.insert(), await house.insert(model_id="flux-schnell")
    driving = asyncio.create_task(house.dispatcher.drive(Place.of(slow)))
    await eventually(lambda: house.backend.calls)
    ended = await asyncio.wait_for(house.dispatcher.drive(Place.of(quick)), 10)
    assert ended is not None
    assert ended.status == "succeeded"
    house.backend.gate.set()
    await driving


async def test_a_job_asked_for_many_times_is_driven_once(house: House) -> None:
    job = await house.insert()
    ends = await asyncio.gather(*(house.dispatcher.drive(Place.of(job)) for _ in range(5)))
    assert {end.status for end in ends if end} == {"succeeded"}
    assert len({id(end) for end in ends}) == 1
    assert house.backend.calls == [job.id]
    assert await house.dispatcher.drive(Place.of(job)) is None


async def test_a_caller_that_goes_away_does_not_stop_the_job(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    house.backend.gate.clear()
    job = await house.insert()
    caller = asyncio.create_task(house.dispatcher.drive(Place.of(job)))
    await eventually(lambda: house.backend.calls)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    house.backend.gate.set()
    await house.until(job, "succeeded")
    assert house.backend.num_cancelled == 0


async def test_the_sweep_finds_a_job_that_nobody_was_told_of(house: House) -> None:
    job = await house.insert(tenant="bob")
    assert (await house.until(job, "succeeded")).attempts == 1


async def test_the_sweep_takes_over_a_job_whose_router_died(houses: OpenHouse) -> None:
    house = await houses()
    lapses_at = time.time() + 0.3
    job = replace(a_job(), status="running", owner="dead", attempts=1, fence=1, wake_at=lapses_at)
    await house.store.insert(job)
    ended = await house.until(job, "succeeded")
    assert (ended.attempts, ended.fence, ended.lost_workers) == (2, 3, 1)
    assert [attempt.code for attempt in ended.history] == ["worker_lost"]
    assert ended.started_at is not None
    assert ended.started_at >= lapses_at


async def test_a_job_that_was_put_back_is_driven_again_by_the_sweep(house: House) -> None:
    house.backend.troubles.append(BackendLost("its process died"))
    job = await house.insert()
    assert (await house.until(job, "succeeded")).attempts == 2
    assert house.backend.calls == [job.id, job.id]


async def test_the_sweep_goes_on_after_the_database_was_away(
    houses: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await houses()
    heads, failures = house.store.heads, []

    async def away_twice(*args: Any, **more: Any) -> dict[Line, str]:
        if len(failures) < 2:
            failures.append(1)
            raise Unavailable("the database is away")
        return await heads(*args, **more)

    monkeypatch.setattr(house.store, "heads", away_twice)
    job = await house.insert()
    await house.until(job, "succeeded")
    assert len(failures) == 2


async def test_an_unexpected_error_reaches_whoever_waits_and_the_job_can_be_driven_again(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"lease_s": 0.3, "heartbeat_s": 0.1})
    house.backend.troubles.append(ZeroDivisionError("a bug"))
    job = await house.insert()
    with pytest.raises(ZeroDivisionError):
        await house.dispatcher.drive(Place.of(job))
    assert await house.upkeep.release(await house.store.get("alice", job.id))
    assert await house.upkeep.promote(await house.store.get("alice", job.id))
    ended = await house.dispatcher.drive(Place.of(job))
    assert ended is not None
    assert ended.status == "succeeded"


async def test_a_job_that_is_both_pushed_and_found_is_driven_once_and_whoever_waits_for_it_hears_its_end(
    houses: OpenHouse,
) -> None:
    """The ticket of the line claims it, and hands it to the drive that stands in the lane for it."""
    house = await houses(lane_width=1)
    house.backend.gate.clear()
    first = await house.insert()
    await eventually(lambda: house.backend.calls == [first.id])
    jobs = by_age([await house.insert() for _ in range(6)])
    found_first = jobs[0]  # no drive stands for it, so the sweep takes a ticket for its line
    driving = [asyncio.create_task(house.dispatcher.drive(Place.of(job))) for job in jobs[1:]]
    await asyncio.sleep(0.2)
    house.backend.gate.set()
    ends = await asyncio.gather(*driving)
    await house.until(found_first, "succeeded")
    assert [end.status if end else None for end in ends] == ["succeeded"] * 5
    assert house.backend.calls == [job.id for job in (first, *jobs)]


async def test_a_job_called_off_before_its_first_step_leaves_its_place_to_the_next(
    houses: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await houses(lane_width=1, sweeps=False)
    set_out, called_off = house.dispatcher._set_out, list[str]()

    def set_out_and_call_off(job_id: str, work: Any) -> Any:
        drive = set_out(job_id, work)
        if len(called_off) < 3:
            called_off.append(job_id)
            house.dispatcher.call_off(job_id)
        return drive

    monkeypatch.setattr(house.dispatcher, "_set_out", set_out_and_call_off)
    jobs = by_age([await house.insert() for _ in range(5)])
    sweeping = asyncio.create_task(house.dispatcher.sweep_forever())
    for job in jobs[3:]:
        await house.until(job, "succeeded")
    sweeping.cancel()
    assert called_off == [job.id for job in jobs[:3]]
    assert house.backend.calls == [job.id for job in jobs[3:]]


async def test_a_line_is_looked_for_again_after_its_ticket_broke_off(
    houses: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await houses(lane_width=1)
    claim_next, failures = house.driver.claim_next, []

    async def away_twice(line: Line) -> Job | None:
        if len(failures) < 2:
            failures.append(1)
            raise Unavailable("the database is away")
        return await claim_next(line)

    monkeypatch.setattr(house.driver, "claim_next", away_twice)
    await house.until(await house.insert(), "succeeded")
    assert len(failures) == 2


async def test_jobs_of_several_pictures_hold_as_many_places(houses: OpenHouse) -> None:
    house = await houses(lane_width=4)
    house.backend.gate.clear()
    ten = await house.insert(num_images=10)
    await eventually(lambda: house.backend.calls == [ten.id])
    ones = [await house.insert() for _ in range(6)]
    await asyncio.sleep(0.2)
    assert house.backend.num_running == 1
    house.backend.gate.set()
    for job in (ten, *ones):
        await house.until(job, "succeeded")
    house.backend.gate.clear()
    more = [await house.insert() for _ in range(6)]
    await eventually(lambda: house.backend.num_running == 4)
    house.backend.gate.set()
    for job in more:
        await house.until(job, "succeeded")
