"""The dispatcher: order within a lane, one run for a job however often it is asked for, and jobs nobody was told of."""

import asyncio
import itertools
import time
from dataclasses import replace

import pytest

from serving.errors import BackendLost, Unavailable
from serving.jobs.dispatcher import Lane, Place
from serving.jobs.job import Job
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, a_job, eventually

FIRST, SECOND, THIRD = Place(0, 1.0, "a"), Place(1, 1.0, "b"), Place(1, 2.0, "c")


async def in_lane(lane: Lane, place: Place, entered: list[str], stay: asyncio.Event) -> None:
    async with lane.enter(place):
        entered.append(place.job_id)
        await stay.wait()


@pytest.mark.parametrize("arrival", list(itertools.permutations([FIRST, SECOND, THIRD])))
async def test_waiters_of_a_lane_are_served_by_place_not_by_arrival(arrival: tuple[Place, ...]) -> None:
    lane, entered, stay = Lane(1), [], asyncio.Event()
    tasks = [asyncio.create_task(in_lane(lane, Place(9, 9.0, "now"), entered, stay))]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(in_lane(lane, place, entered, stay)) for place in arrival]
    await asyncio.sleep(0)
    stay.set()
    await asyncio.gather(*tasks)
    assert entered == ["now", "a", "b", "c"]


async def test_a_waiter_that_goes_away_hands_its_turn_on() -> None:
    lane, entered, stay = Lane(1), [], asyncio.Event()
    holder = asyncio.create_task(in_lane(lane, THIRD, entered, stay))
    await asyncio.sleep(0)
    leaver, waiter = (asyncio.create_task(in_lane(lane, place, entered, stay)) for place in (FIRST, SECOND))
    await asyncio.sleep(0)
    leaver.cancel()
    stay.set()
    await asyncio.wait_for(asyncio.gather(holder, waiter), 5)
    assert entered == ["c", "b"]


async def test_a_turn_that_comes_together_with_the_cancellation_is_handed_on() -> None:
    lane, entered, stay = Lane(1), [], asyncio.Event()
    stay.set()
    async with lane.enter(THIRD):
        leaver, waiter = (asyncio.create_task(in_lane(lane, place, entered, stay)) for place in (FIRST, SECOND))
        await asyncio.sleep(0)
    # The leaver has its turn now, but did not wake up yet.
    leaver.cancel()
    await asyncio.wait_for(waiter, 5)
    assert entered == ["b"]
    async with asyncio.timeout(5), lane.enter(FIRST):
        pass


async def test_a_place_is_given_back_when_its_holder_fails() -> None:
    lane = Lane(1)
    with pytest.raises(ZeroDivisionError):
        async with lane.enter(FIRST):
            raise ZeroDivisionError
    async with asyncio.timeout(5), lane.enter(SECOND):
        pass


async def test_jobs_go_to_the_engine_by_priority_and_then_by_age(houses: OpenHouse) -> None:
    house = await houses(lane_width=1, sweeps=False)
    house.backend.gate.clear()
    base = a_job()
    wanted = {
        name: replace(a_job(priority=priority), created_at=base.created_at + age)
        for name, priority, age in [
            ("low", "low", 0),
            ("new", "normal", 2),
            ("old", "normal", 1),
            ("high", "high", 3),
        ]
    }
    blocker = await house.insert()
    driving = [asyncio.create_task(house.dispatcher.drive(Place.of(blocker), blocker.model_id))]
    await eventually(lambda: house.backend.calls)
    for job in wanted.values():
        await house.store.insert(job)
        driving.append(asyncio.create_task(house.dispatcher.drive(Place.of(job), job.model_id)))
    await asyncio.sleep(0)
    house.backend.gate.set()
    await asyncio.gather(*driving)
    assert house.backend.calls == [blocker.id, *(wanted[name].id for name in ("high", "old", "new", "low"))]


async def test_a_lane_holds_no_more_than_its_width(houses: OpenHouse) -> None:
    house = await houses(lane_width=2, sweeps=False)
    house.backend.gate.clear()
    jobs = [await house.insert() for _ in range(6)]
    driving = [asyncio.create_task(house.dispatcher.drive(Place.of(job), job.model_id)) for job in jobs]
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
    driving = asyncio.create_task(house.dispatcher.drive(Place.of(slow), slow.model_id))
    await eventually(lambda: house.backend.calls)
    ended = await asyncio.wait_for(house.dispatcher.drive(Place.of(quick), quick.model_id), 10)
    assert ended is not None
    assert ended.status == "succeeded"
    house.backend.gate.set()
    await driving


async def test_a_job_asked_for_many_times_is_driven_once(house: House) -> None:
    job = await house.insert()
    ends = await asyncio.gather(*(house.dispatcher.drive(Place.of(job), job.model_id) for _ in range(5)))
    assert {end.status for end in ends if end} == {"succeeded"}
    assert len({id(end) for end in ends}) == 1
    assert house.backend.calls == [job.id]
    assert await house.dispatcher.drive(Place.of(job), job.model_id) is None


async def test_a_caller_that_goes_away_does_not_stop_the_job(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    house.backend.gate.clear()
    job = await house.insert()
    caller = asyncio.create_task(house.dispatcher.drive(Place.of(job), job.model_id))
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
    job = replace(a_job(), status="running", owner="dead", attempts=1, fence=1, lease_until=lapses_at)
    await house.store.insert(job)
    ended = await house.until(job, "succeeded")
    assert (ended.attempts, ended.fence) == (2, 2)
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
    find, failures = house.store.find_undriven, []

    async def away_twice(*args, **kwargs) -> list[Job]:
        if len(failures) < 2:
            failures.append(1)
            raise Unavailable("the database is away")
        return await find(*args, **kwargs)

    monkeypatch.setattr(house.store, "find_undriven", away_twice)
    job = await house.insert()
    await house.until(job, "succeeded")
    assert len(failures) == 2


async def test_an_unexpected_error_reaches_whoever_waits_and_the_job_can_be_driven_again(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"lease_s": 0.3, "heartbeat_s": 0.1})
    house.backend.troubles.append(ZeroDivisionError("a bug"))
    job = await house.insert()
    with pytest.raises(ZeroDivisionError):
        await house.dispatcher.drive(Place.of(job), job.model_id)
    await asyncio.sleep(0.35)
    ended = await house.dispatcher.drive(Place.of(job), job.model_id)
    assert ended is not None
    assert ended.status == "succeeded"
