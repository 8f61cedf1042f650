"""Which troubles are tried again, how often and when, and how a job ends that never worked."""

import asyncio
import time
from typing import Any

import pytest

from models.errors import GenerationError, NotFinite, OutOfMemory
from serving.errors import BackendLost, Conflict
from serving.jobs.job import Job
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, eventually

FAST = {"retry_base_s": 0.02, "retry_cap_s": 0.05}


async def driven(house: House, job: Job) -> Job:
    """By its first try or, where it was put back, by another."""
    stored = await house.store.get(job.tenant, job.id)
    ended = await (house.drive(job) if stored.attempts == 0 else house.try_again(job))
    assert ended is not None
    assert ended == await house.store.get(job.tenant, job.id)
    return ended


def waits_s(history: list[Job]) -> list[float]:
    return [put_back.not_before - put_back.history[-1].ended_at for put_back in history]


async def test_what_may_pass_is_tried_again_with_growing_waits_and_fails_with_all_that_was_tried(
    houses: OpenHouse,
) -> None:
    house = await houses(sweeps=False, jobs={"max_attempts": 4, "retry_base_s": 10, "retry_cap_s": 1_000})
    house.backend.troubles.extend(OutOfMemory(f"the {number}th time") for number in range(1, 9))
    job = await house.insert()
    *put_back, ended = [await driven(house, job) for _ in range(4)]
    assert [back.status for back in put_back] == ["queued"] * 3
    for wait_s, middle_s in zip(waits_s(put_back), (10, 20, 40), strict=True):
        assert 0.7 * middle_s < wait_s < 1.3 * middle_s
    assert ended.error is not None
    assert (ended.status, ended.error.code, ended.error.message) == ("failed", "out_of_memory", "the 4th time")
    assert (ended.attempts, ended.failures, ended.lost_workers) == (4, 3, 0)
    assert [(a.number, a.code, a.message, a.backend) for a in ended.history] == [
        (number, "out_of_memory", f"the {number}th time", "engine:emoji-3d") for number in (1, 2, 3, 4)
    ]
    assert len(house.backend.calls) == 4
    assert house.blobs.keys == []


async def test_a_failed_job_tried_again_by_hand_has_all_its_tries_again(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"max_attempts": 2})
    house.backend.troubles.extend(OutOfMemory("too large") for _ in range(3))
    job = await house.insert()
    assert [(await driven(house, job)).status for _ in range(2)] == ["queued", "failed"]
    assert await house.upkeep.clear_owed(await house.store.get("alice", job.id))
    await house.store.retry("alice", job.id, expires_at=time.time() + 60)
    back = await house.drive(job)
    assert back is not None
    assert (back.status, back.failures, back.attempts) == ("queued", 1, 3)
    ended = await driven(house, job)
    assert (ended.status, ended.attempts, ended.lives, len(ended.history)) == ("succeeded", 4, 1, 3)


@pytest.mark.parametrize("error", [GenerationError("bad input"), NotFinite("NaN")])
async def test_what_another_try_cannot_change_fails_at_once(houses: OpenHouse, error: Exception) -> None:
    house = await houses(sweeps=False)
    house.backend.troubles.append(error)
    ended = await driven(house, await house.insert())
    assert (ended.status, ended.attempts, len(house.backend.calls)) == ("failed", 1, 1)


async def test_a_lost_backend_counts_as_a_lost_worker_and_the_next_try_makes_it(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    house.backend.troubles.append(BackendLost("its process died"))
    job = await house.insert()
    back = await driven(house, job)
    assert (back.status, back.attempts, back.owner) == ("queued", 1, None)
    assert (back.failures, back.lost_workers, back.history[-1].code) == (0, 1, "backend_lost")
    ended = await driven(house, job)
    assert (ended.status, ended.attempts) == ("succeeded", 2)
    assert ended.result is not None
    assert ended.result.images[0].key.endswith("/2-0.png")


@pytest.mark.parametrize("is_seen_by", ["driver", "upkeep", "both in turn"])
async def test_a_job_that_lost_its_worker_too_often_is_given_up_whoever_saw_it(
    houses: OpenHouse, is_seen_by: str
) -> None:
    house = await houses(sweeps=False, jobs={"max_lost_workers": 3})
    house.backend.troubles.extend(BackendLost("its process died") for _ in range(9))
    job = await house.insert()
    for number in range(3):
        if number:
            assert await house.upkeep.promote(await house.store.get("alice", job.id))
        mine = await house.driver.claim(job.id)
        assert mine is not None
        if is_seen_by == "driver" or (is_seen_by == "both in turn" and number % 2 == 0):
            await house.driver.drive(mine, waited_s=0.0)
        else:
            assert await house.upkeep.release(mine)
    ended = await house.store.get("alice", job.id)
    assert ended.error is not None
    assert (ended.status, ended.error.code, ended.attempts) == ("failed", "workers_lost", 3)
    assert len(ended.history) == 3


async def test_tries_and_lost_workers_are_counted_apart(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"max_attempts": 3, "max_lost_workers": 3})
    troubles = [OutOfMemory("too large"), BackendLost("died")] * 2
    house.backend.troubles.extend(troubles)
    job = await house.insert()
    outcomes = [await driven(house, job) for _ in range(5)]
    assert [outcome.status for outcome in outcomes] == ["queued"] * 4 + ["succeeded"]
    assert [(outcome.failures, outcome.lost_workers) for outcome in outcomes] == [
        (1, 0),
        (1, 1),
        (2, 1),
        (2, 2),
        (2, 2),
    ]


async def test_a_store_that_stays_away_never_uses_the_job_up(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"max_lost_workers": 1, "max_attempts": 1})
    job = await house.insert()
    house.blobs.is_down = True
    outcomes = [await driven(house, job) for _ in range(4)]
    assert {(outcome.status, outcome.failures, outcome.lost_workers) for outcome in outcomes} == {("queued", 0, 0)}
    assert [attempt.code for attempt in outcomes[-1].history] == ["storage_unavailable"] * 4
    house.blobs.is_down = False
    assert (await driven(house, job)).status == "succeeded"


async def test_waits_for_a_store_grow_too_up_to_their_cap(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"retry_base_s": 10, "retry_cap_s": 35})
    job = await house.insert()
    house.blobs.is_down = True
    waits = waits_s([await driven(house, job) for _ in range(4)])
    for wait_s, middle_s in zip(waits, (10, 20, 35, 35), strict=True):
        assert 0.7 * middle_s < wait_s < 1.3 * middle_s


async def test_the_sweep_brings_jobs_back_into_line_after_their_wait_and_not_before(houses: OpenHouse) -> None:
    house = await houses(jobs={"retry_base_s": 0.6, "retry_cap_s": 0.6})
    house.backend.troubles.append(OutOfMemory("too large"))
    job = await house.insert()

    async def is_put_back() -> bool:
        return (await house.store.get("alice", job.id)).failures == 1

    await eventually(is_put_back)
    back = await house.store.get("alice", job.id)
    assert await house.driver.claim(job.id) is None
    ended = await house.until(job, "succeeded")
    assert ended.started_at is not None
    assert ended.started_at >= back.not_before > back.history[0].ended_at
    assert ended.attempts == 2


async def test_the_sweep_tries_a_job_to_its_end(houses: OpenHouse) -> None:
    house = await houses(jobs={**FAST, "max_attempts": 5})
    house.backend.troubles.extend(OutOfMemory("too large") for _ in range(9))
    ended = await house.until(await house.insert(), "failed")
    assert (ended.attempts, len(ended.history), len(house.backend.calls)) == (5, 5, 5)


@pytest.mark.parametrize("state", ["in line", "put back", "running"])
async def test_a_job_past_its_deadline_ends_as_expired_wherever_it_is(houses: OpenHouse, state: str) -> None:
    house = await houses(lane_width=1, jobs={"retry_base_s": 1_000, "retry_cap_s": 1_000})
    house.backend.gate.clear()
    if state == "in line":
        before_it = await house.insert()
        await eventually(lambda: house.backend.calls == [before_it.id])
    if state == "put back":
        house.backend.troubles.append(OutOfMemory("too large"))
    job = await house.insert(expires_in_s=1.0)
    ended = await house.until(job, "failed")
    assert ended.error is not None
    assert ended.error.code == "expired"
    assert ended.finished_at is not None
    assert ended.finished_at >= job.expires_at - 0.001
    assert ended.attempts == (0 if state == "in line" else 1)
    assert house.backend.num_running == (1 if state == "in line" else 0)
    with pytest.raises(Conflict):
        await house.store.cancel("alice", job.id)
    house.backend.gate.set()


async def test_a_job_claimed_after_its_deadline_never_reaches_a_backend(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    job = await house.insert(expires_in_s=0.01)
    await asyncio.sleep(0.02)
    ended = await driven(house, job)
    assert ended.error is not None
    assert (ended.status, ended.error.code, house.backend.calls) == ("failed", "expired", [])


async def test_the_pauses_of_jobs_that_fail_do_not_hold_up_others(houses: OpenHouse, raw: Any) -> None:
    house = await houses(lane_width=1, jobs={"retry_base_s": 1_000, "retry_cap_s": 1_000})
    house.backend.troubles.extend(OutOfMemory("too large") for _ in range(3))
    for _ in range(3):
        await house.insert(priority="high")
    ended = await house.until(await house.insert(priority="low"), "succeeded")
    assert ended.attempts == 1
    assert await house.store.count_queued() == 3
