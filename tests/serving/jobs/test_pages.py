"""A tenant's own jobs: in pages, filtered, and how many of them wait."""

import random
from typing import Any

import pytest
import pytest_asyncio

from configs.settings import JobSettings
from serving.errors import NotFound
from serving.jobs.job import Job, JobResult
from serving.jobs.store import JobStore
from serving.mongo import Mongo
from tests.serving.house import a_job

RESULT = JobResult(images=(), engine_s=0.5, waited_s=0.1)


@pytest.fixture
def store(mongo: Mongo) -> JobStore:
    return JobStore(mongo, JobSettings())


@pytest_asyncio.fixture
async def job(store: JobStore) -> Job:
    job = a_job()
    await store.insert(job)
    return job


async def claimed(store: JobStore, job: Job) -> Job:
    mine = await store.claim(job.id, owner="router-1")
    assert mine is not None
    return mine


async def test_count_queued_of_one_tenant_and_of_all(store: JobStore, job: Job) -> None:
    for tenant in ("bob", "alice-1", "alic"):
        await store.insert(a_job(tenant=tenant))
    running = a_job()
    await store.insert(running)
    await claimed(store, running)
    assert await store.count_queued() == 4
    assert await store.count_queued("alice") == 1
    assert await store.count_queued("carol") == 0


async def test_pages_go_newest_first_through_all_of_a_tenants_jobs_and_no_others(store: JobStore) -> None:
    jobs = [a_job() for _ in range(7)]
    random.shuffle(jobs)
    for job in [*jobs, *(a_job(tenant=tenant) for tenant in ("bob", "alice-1", "alice0", "alic"))]:
        await store.insert(job)
    wanted = sorted((job.id for job in jobs), reverse=True)  # ids sort by time
    seen: list[str] = []
    after = None
    while page := await store.page("alice", status=None, kind=None, limit=2, after=after):
        assert len(page) <= 2
        seen += [job.id for job in page]
        after = page[-1].id
    assert seen == wanted


async def test_pages_can_be_filtered(store: JobStore, job: Job) -> None:
    done = a_job()
    await store.insert(done)
    await store.succeed(await claimed(store, done), RESULT, backend="engine:x", device_s=1.0)

    async def page(**wanted: Any) -> list[str]:
        filters = {"status": None, "kind": None, "limit": 10, "after": None} | wanted
        return [found.id for found in await store.page("alice", **filters)]

    assert await page(status="succeeded") == [done.id]
    assert await page(status="queued", kind="image") == [job.id]
    assert await page(kind="video") == []
    assert await page(status="queued", after=done.id) == [job.id]


async def test_a_page_after_another_tenants_job_is_not_found(store: JobStore, job: Job) -> None:
    with pytest.raises(NotFound):
        await store.page("bob", status=None, kind=None, limit=10, after=job.id)
