"""What the server does to jobs by itself: at their moments, once, and only while they are as they were seen."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from configs.settings import JobSettings
from serving.jobs.job import Job, JobError, JobResult
from serving.jobs.store import JobStore
from serving.jobs.upkeep import JobUpkeep
from serving.mongo import Mongo
from tests.serving.house import a_job

SETTINGS = JobSettings(lease_s=10.0, retry_base_s=2.0, max_lost_workers=3)
RESULT = JobResult(images=(), engine_s=0.5, waited_s=0.1)
TROUBLE = JobError("out_of_memory", "too large")


@pytest.fixture
def store(mongo: Mongo) -> JobStore:
    return JobStore(mongo, SETTINGS)


@pytest.fixture
def upkeep(mongo: Mongo) -> JobUpkeep:
    return JobUpkeep(mongo, SETTINGS)


Claimed = Callable[..., Awaitable[Job]]


@pytest.fixture
def claimed(store: JobStore) -> Claimed:
    async def claim(**changes: Any) -> Job:
        job = a_job(**changes)
        await store.insert(job)
        mine = await store.claim(job.id, owner="router-1")
        assert mine is not None
        return mine

    return claim


async def moved(raw: Any, job: Job, **moments: float) -> None:
    """As if it were that time: the moments of a job are changed, and nothing else."""
    await raw["jobs"].update_one({"_id": job.id}, {"$set": moments})


async def test_what_is_due_are_unended_jobs_whose_moment_has_come_longest_due_first(
    store: JobStore, upkeep: JobUpkeep, claimed: Claimed, raw: Any
) -> None:
    waiting, lapsed, driven, ended, put_back = [await claimed() for _ in range(5)]
    await store.hand_back(waiting)
    await store.succeed(ended, RESULT, backend="engine:x", device_s=1.0)
    await store.put_back(put_back, TROUBLE, delay_s=0.0, backend=None, counts=None)
    now = time.time()
    await moved(raw, lapsed, wake_at=now - 2)
    await moved(raw, waiting, wake_at=now - 3)
    await moved(raw, ended, tidy_at=now - 9)
    assert [job.id for job in await upkeep.due(limit=10)] == [waiting.id, lapsed.id, put_back.id]
    assert [job.id for job in await upkeep.due(limit=1)] == [waiting.id]
    assert [job.id for job in await upkeep.to_tidy(limit=10)] == [ended.id]
    assert driven.id not in {job.id for job in await upkeep.due(limit=10)}


async def test_a_job_whose_worker_died_waits_a_little_and_then_stands_in_line_again(
    store: JobStore, upkeep: JobUpkeep, claimed: Claimed
) -> None:
    job = await claimed()
    assert await upkeep.release(job)
    back = await store.get("alice", job.id)
    assert (back.status, back.owner, back.lost_workers, back.failures) == ("queued", None, 1, 0)
    assert back.fence == job.fence + 1
    assert 0.75 * 2 - 1 < back.not_before - time.time() <= 1.25 * 2
    (attempt,) = back.history
    assert (attempt.number, attempt.code, attempt.started_at) == (1, "worker_lost", job.started_at)
    assert await store.claim(job.id, owner="router-2") is None
    assert await upkeep.promote(back)
    in_line = await store.get("alice", job.id)
    assert in_line.not_before == 0.0
    assert in_line.wake_at == pytest.approx(job.expires_at, abs=1e-4)
    assert await store.claim(job.id, owner="router-2") is not None


async def test_a_job_that_lost_its_worker_too_often_is_given_up_with_its_whole_history(
    store: JobStore, upkeep: JobUpkeep, claimed: Claimed
) -> None:
    job: Job | None = await claimed()
    for _ in range(SETTINGS.max_lost_workers):
        assert job is not None
        assert await upkeep.release(job)
        seen = await store.get("alice", job.id)
        if not seen.is_final:
            assert await upkeep.promote(seen)
            job = await store.claim(seen.id, owner="router-2")
    assert (seen.status, seen.lost_workers, seen.attempts) == ("failed", 3, 3)
    assert seen.error is not None
    assert seen.error.code == "workers_lost"
    assert [(attempt.number, attempt.code) for attempt in seen.history] == [(n, "worker_lost") for n in (1, 2, 3)]
    assert seen.owed_at == seen.finished_at
    assert (seen.wake_at, seen.tidy_at > 0) == (0.0, True)


async def test_a_lease_that_was_renewed_meanwhile_is_not_taken(
    store: JobStore, upkeep: JobUpkeep, claimed: Claimed, raw: Any
) -> None:
    job = await claimed()
    await moved(raw, job, wake_at=time.time() - 1)
    (seen,) = await upkeep.due(limit=10)
    await store.renew(job)
    before = await store.get("alice", job.id)
    assert await upkeep.release(seen) is False
    assert await store.get("alice", job.id) == before


@pytest.mark.parametrize("step", ["release", "promote", "expire"])
async def test_of_many_who_do_the_same_step_one_does_it(
    store: JobStore, upkeep: JobUpkeep, claimed: Claimed, step: str
) -> None:
    seen = await claimed()
    if step != "release":
        seen = await store.put_back(seen, TROUBLE, delay_s=9.0, backend=None, counts=None)
    outcomes = await asyncio.gather(*(getattr(upkeep, step)(seen) for _ in range(6)))
    assert sorted(outcomes) == [False] * 5 + [True]


@pytest.mark.parametrize("state", ["in line", "put back"])
async def test_a_waiting_job_past_its_deadline_ends_as_expired(
    store: JobStore, upkeep: JobUpkeep, claimed: Claimed, raw: Any, state: str
) -> None:
    mine = await claimed()
    if state == "in line":
        await store.hand_back(mine)
    else:
        await store.put_back(mine, TROUBLE, delay_s=9.0, backend=None, counts=None)
    await moved(raw, mine, wake_at=time.time() - 1, expires_at=time.time() - 1)
    (seen,) = await upkeep.due(limit=10)
    assert await upkeep.expire(seen)
    ended = await store.get("alice", mine.id)
    assert ended.error is not None
    assert (ended.status, ended.error.code, ended.owed_at) == ("failed", "expired", ended.finished_at)
    assert await store.claim(mine.id, owner="router-2") is None
    assert await store.heads(["emoji-3d"], limit=10) == {}
    assert await upkeep.due(limit=10) == []


async def test_a_job_that_was_claimed_at_its_last_moment_is_not_expired_under_its_driver(
    store: JobStore, upkeep: JobUpkeep, raw: Any
) -> None:
    job = a_job()
    await store.insert(job)
    await moved(raw, job, wake_at=time.time() - 1)
    (seen,) = await upkeep.due(limit=10)
    mine = await store.claim(job.id, owner="router-1")
    assert await upkeep.expire(seen) is False
    assert await store.get("alice", job.id) == mine


async def test_ended_jobs_are_looked_at_again_when_it_was_said_and_no_more_at_zero(
    store: JobStore, upkeep: JobUpkeep, claimed: Claimed, raw: Any
) -> None:
    job = await claimed()
    await store.succeed(job, RESULT, backend="engine:x", device_s=1.0)
    assert await upkeep.to_tidy(limit=10) == []
    for again_in_s, is_found in ((-1.0, True), (60.0, False)):
        assert await upkeep.tidy_again(await store.get("alice", job.id), time.time() + again_in_s)
        assert bool(await upkeep.to_tidy(limit=10)) is is_found
    assert await upkeep.tidy_again(await store.get("alice", job.id), 0.0)
    assert (await store.get("alice", job.id)).tidy_at == 0.0
    assert await upkeep.to_tidy(limit=10) == []


async def test_a_job_that_began_a_new_life_meanwhile_is_neither_put_off_nor_deleted(
    store: JobStore, upkeep: JobUpkeep, claimed: Claimed
) -> None:
    failed = await store.fail(await claimed(), TROUBLE)
    assert await upkeep.clear_owed(failed)
    seen = await store.get("alice", failed.id)
    again = await store.retry("alice", failed.id, expires_at=4e9)
    assert await upkeep.tidy_again(seen, 1.0) is False
    assert await upkeep.delete(seen) is False
    assert await store.get("alice", failed.id) == again


async def test_a_deleted_job_is_gone(store: JobStore, upkeep: JobUpkeep, claimed: Claimed) -> None:
    ended = await store.cancel("alice", (await claimed()).id)
    assert await upkeep.exists(ended.id)
    assert await upkeep.delete(ended)
    assert not await upkeep.exists(ended.id)
    assert await upkeep.delete(ended) is False


async def test_news_are_owed_from_the_first_claim_on_oldest_first_until_they_are_on_their_way(
    store: JobStore, upkeep: JobUpkeep, claimed: Claimed
) -> None:
    waiting = a_job()
    await store.insert(waiting)
    first, second = await claimed(), await claimed()
    assert [job.id for job in await upkeep.find_owed(limit=10)] == [first.id, second.id]
    assert [job.id for job in await upkeep.find_owed(limit=1)] == [first.id]
    assert await upkeep.clear_owed(first)
    assert [job.id for job in await upkeep.find_owed(limit=10)] == [second.id]
    await store.succeed(first, RESULT, backend="engine:x", device_s=1.0)
    assert [job.id for job in await upkeep.find_owed(limit=10)] == [second.id, first.id]


async def test_newer_news_are_never_cleared_with_older_ones(
    store: JobStore, upkeep: JobUpkeep, claimed: Claimed
) -> None:
    started = await claimed()
    ended = await store.succeed(started, RESULT, backend="engine:x", device_s=1.0)
    assert await upkeep.clear_owed(started) is False
    assert (await store.get("alice", started.id)).owed_at == ended.owed_at
    assert await upkeep.clear_owed(ended) is True
    assert await upkeep.find_owed(limit=10) == []


async def test_a_document_that_cannot_be_read_hides_no_other(upkeep: JobUpkeep, claimed: Claimed, raw: Any) -> None:
    broken, whole = await claimed(), await claimed()
    for job in (broken, whole):
        await moved(raw, job, wake_at=time.time() - 1)
    await raw["jobs"].update_one({"_id": broken.id}, {"$set": {"request": {"odd": 1}}})
    assert [job.id for job in await upkeep.due(limit=10)] == [whole.id]
    assert [job.id for job in await upkeep.find_owed(limit=10)] == [whole.id]
