"""A failed job that a person has tried again: a new life, once its end is announced, and its history goes on."""

import asyncio

import pytest
import pytest_asyncio

from configs.settings import JobSettings
from serving.errors import Unavailable
from serving.jobs.job import Job, JobError
from serving.jobs.store import JobStore
from serving.jobs.upkeep import JobUpkeep
from serving.mongo import Mongo
from tests.serving.house import a_job

TROUBLE = JobError("out_of_memory", "too large")


@pytest.fixture
def store(mongo: Mongo) -> JobStore:
    return JobStore(mongo, JobSettings())


@pytest.fixture
def upkeep(mongo: Mongo) -> JobUpkeep:
    return JobUpkeep(mongo, JobSettings())


@pytest_asyncio.fixture
async def job(store: JobStore) -> Job:
    job = a_job()
    await store.insert(job)
    return job


async def claimed(store: JobStore, job: Job) -> Job:
    mine = await store.claim(job.id, owner="router-1")
    assert mine is not None
    return mine


async def test_a_failed_job_that_is_tried_again_has_a_new_life_and_keeps_its_history(
    store: JobStore, upkeep: JobUpkeep, job: Job
) -> None:
    mine = await claimed(store, job)
    back = await store.put_back(mine, TROUBLE, delay_s=0, backend="engine:x", counts="failures")
    assert await upkeep.promote(back)
    failed = await store.fail(await claimed(store, job), TROUBLE, backend="engine:x")
    assert await upkeep.clear_owed(failed)
    again = await store.retry("alice", job.id, expires_at=4e9)
    assert (again.status, again.failures, again.lost_workers, again.error, again.lives) == ("queued", 0, 0, None, 1)
    assert (again.expires_at, again.wake_at, again.tidy_at, again.attempts) == (4e9, 4e9, 0.0, 2)
    assert (again.finished_at, again.started_at) == (None, None)
    assert [attempt.number for attempt in again.history] == [1, 2]
    assert again.fence > failed.fence
    assert (await claimed(store, job)).attempts == 3


async def test_a_job_whose_failure_is_not_announced_yet_is_not_tried_again(store: JobStore, job: Job) -> None:
    failed = await store.fail(await claimed(store, job), TROUBLE)
    with pytest.raises(Unavailable) as caught:
        await store.retry("alice", job.id, expires_at=4e9)
    assert (caught.value.code, caught.value.retry_after_s) == ("job_announcing", 1)
    assert await store.get("alice", job.id) == failed


async def test_of_many_who_try_a_failed_job_again_one_does(store: JobStore, upkeep: JobUpkeep, job: Job) -> None:
    assert await upkeep.clear_owed(await store.fail(await claimed(store, job), TROUBLE))
    outcomes = await asyncio.gather(
        *(store.retry("alice", job.id, expires_at=4e9) for _ in range(6)), return_exceptions=True
    )
    assert sum(isinstance(outcome, Job) for outcome in outcomes) == 1
    assert (await store.get("alice", job.id)).lives == 1
