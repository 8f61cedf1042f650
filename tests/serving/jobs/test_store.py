"""JobStore: one claimer at a time, refused stale writers, tenants kept apart, order of pages and of the queue."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from configs.settings import JobSettings
from serving.errors import LeaseLost, NotFound
from serving.jobs.job import Job, JobError, JobResult
from serving.jobs.store import JobStore
from serving.mongo import Mongo
from tests.serving.house import a_job

LEASE_S = 0.25
RESULT = JobResult(images=(), engine_s=0.5, waited_s=0.1)
WRITES: dict[str, Callable[[JobStore, Job], Awaitable[Any]]] = {
    "renew": lambda store, job: store.renew(job),
    "write_progress": lambda store, job: store.write_progress(job, step=1, steps=2, progress=50),
    "succeed": lambda store, job: store.succeed(job, RESULT, backend="engine:x"),
    "fail": lambda store, job: store.fail(job, JobError("code", "message")),
    "put_back": lambda store, job: store.put_back(job, delay_s=0, is_worker_lost=True),
}


@pytest.fixture
def store(mongo: Mongo) -> JobStore:
    return JobStore(mongo, JobSettings(lease_s=LEASE_S, heartbeat_s=0.1))


@pytest_asyncio.fixture
async def job(store: JobStore) -> Job:
    job = a_job()
    await store.insert(job)
    return job


async def claimed(store: JobStore, job: Job, owner: str = "router-1") -> Job:
    mine = await store.claim(job.id, owner=owner)
    assert mine is not None
    return mine


async def test_a_job_is_stored_as_it_is(store: JobStore, job: Job) -> None:
    assert await store.get("alice", job.id) == job


async def test_another_tenants_job_is_not_found_and_neither_is_one_that_is_not(store: JobStore, job: Job) -> None:
    for tenant, job_id in (("bob", job.id), ("alice", "job_none"), ("alice", "")):
        with pytest.raises(NotFound) as caught:
            await store.get(tenant, job_id)
        assert caught.value.code == "job_not_found"


async def test_a_job_is_claimed_once(store: JobStore, job: Job) -> None:
    claims = await asyncio.gather(*(store.claim(job.id, owner=f"router-{i}") for i in range(8)))
    (mine,) = [claim for claim in claims if claim is not None]
    assert (mine.status, mine.attempts, mine.fence) == ("running", 1, 1)
    assert mine.owner is not None
    assert mine.started_at is not None
    assert await store.get("alice", job.id) == mine


async def test_a_job_is_claimed_again_only_after_its_lease_lapsed(store: JobStore, job: Job) -> None:
    await claimed(store, job)
    assert await store.claim(job.id, owner="router-2") is None
    await asyncio.sleep(LEASE_S + 0.05)
    again = await claimed(store, job, "router-2")
    assert (again.owner, again.attempts, again.fence) == ("router-2", 2, 2)


async def test_a_renewed_lease_is_not_claimed(store: JobStore, job: Job) -> None:
    mine = await claimed(store, job)
    for _ in range(4):
        await asyncio.sleep(LEASE_S / 2)
        await store.renew(mine)
    assert await store.claim(job.id, owner="router-2") is None


async def test_progress_renews_the_lease_too(store: JobStore, job: Job) -> None:
    mine = await claimed(store, job)
    before = (await store.get("alice", job.id)).lease_until
    await asyncio.sleep(0.02)
    await store.write_progress(mine, step=3, steps=4, progress=75)
    now = await store.get("alice", job.id)
    assert (now.step, now.steps, now.progress) == (3, 4, 75)
    assert now.lease_until > before


@pytest.mark.parametrize("name", WRITES)
async def test_a_stale_writer_is_refused_and_changes_nothing(store: JobStore, job: Job, name: str) -> None:
    stale = await claimed(store, job)
    await asyncio.sleep(LEASE_S + 0.05)
    await claimed(store, job, "router-2")
    before = await store.get("alice", job.id)
    with pytest.raises(LeaseLost):
        await WRITES[name](store, stale)
    assert await store.get("alice", job.id) == before


@pytest.mark.parametrize("end", ["succeed", "fail", "put_back"])
@pytest.mark.parametrize("name", WRITES)
async def test_whoever_let_go_of_a_job_writes_no_more(store: JobStore, job: Job, name: str, end: str) -> None:
    mine = await claimed(store, job)
    await WRITES[end](store, mine)
    before = await store.get("alice", job.id)
    with pytest.raises(LeaseLost):
        await WRITES[name](store, mine)
    assert await store.get("alice", job.id) == before


async def test_succeed_stores_the_result(store: JobStore, job: Job) -> None:
    ended = await store.succeed(await claimed(store, job), RESULT, backend="engine:x")
    assert ended == await store.get("alice", job.id)
    assert (ended.status, ended.result, ended.backend, ended.progress) == ("succeeded", RESULT, "engine:x", 100)
    assert (ended.step, ended.owner, ended.error) == (job.steps, None, None)
    assert ended.finished_at is not None
    assert ended.finished_at >= job.created_at


async def test_fail_stores_the_reason(store: JobStore, job: Job) -> None:
    ended = await store.fail(await claimed(store, job), JobError("out_of_memory", "too large"))
    assert ended == await store.get("alice", job.id)
    assert (ended.status, ended.error, ended.result) == ("failed", JobError("out_of_memory", "too large"), None)


@pytest.mark.parametrize("end", ["succeed", "fail"])
async def test_a_job_that_ended_is_never_claimed(store: JobStore, job: Job, end: str) -> None:
    await WRITES[end](store, await claimed(store, job))
    await asyncio.sleep(LEASE_S + 0.05)
    assert await store.claim(job.id, owner="router-2") is None
    assert await store.find_undriven(["emoji-3d"], limit=10) == []


async def test_put_back_makes_it_claimable_at_once_and_keeps_its_place(store: JobStore, job: Job) -> None:
    later = a_job()
    await store.insert(later)
    mine = await claimed(store, job)
    await store.write_progress(mine, step=1, steps=2, progress=50)
    back = await store.put_back(mine, delay_s=0, is_worker_lost=True)
    assert (back.status, back.owner, back.progress, back.step, back.created_at) == (
        "queued",
        None,
        0,
        0,
        job.created_at,
    )
    assert await store.queue_position(back) == 0
    assert (await claimed(store, job, "router-2")).fence == 2


async def test_a_job_put_back_with_a_delay_is_found_when_it_is_over(store: JobStore, job: Job) -> None:
    await store.put_back(await claimed(store, job), delay_s=0.2, is_worker_lost=False)
    assert await store.find_undriven(["emoji-3d"], limit=10) == []
    await asyncio.sleep(0.25)
    assert [found.id for found in await store.find_undriven(["emoji-3d"], limit=10)] == [job.id]


async def test_lost_workers_are_counted_apart_from_attempts(store: JobStore, job: Job) -> None:
    back = await store.put_back(await claimed(store, job), delay_s=0, is_worker_lost=False)
    assert (back.attempts, back.lost_workers) == (1, 0)
    back = await store.put_back(await claimed(store, job), delay_s=0, is_worker_lost=True)
    assert (back.attempts, back.lost_workers) == (2, 1)
    await claimed(store, job)
    await asyncio.sleep(LEASE_S + 0.05)
    taken_over = await claimed(store, job, "router-2")
    assert (taken_over.attempts, taken_over.lost_workers) == (4, 2)


async def test_a_document_that_cannot_be_read_does_not_hide_the_others(store: JobStore, job: Job, mongo: Mongo) -> None:
    broken = a_job()
    await store.insert(broken)
    await mongo.of_tenant("jobs", broken.tenant).update_one({"_id": broken.id}, {"$set": {"request": {"odd": 1}}})
    assert [found.id for found in await store.find_undriven(["emoji-3d"], limit=10)] == [job.id]


async def test_find_undriven_finds_waiting_and_lapsed_jobs_of_the_given_models(store: JobStore) -> None:
    low, high, lapsed, driven, other = (
        a_job(priority="low"),
        a_job(priority="high", tenant="bob"),
        a_job(),
        a_job(),
        a_job(model_id="flux-schnell"),
    )
    for job in (low, high, lapsed, driven, other):
        await store.insert(job)
    await claimed(store, lapsed)
    await asyncio.sleep(LEASE_S + 0.05)
    await claimed(store, driven)
    found = await store.find_undriven(["emoji-3d"], limit=10)
    assert [job.id for job in found] == [lapsed.id, high.id, low.id]
    assert [job.id for job in await store.find_undriven(["emoji-3d"], limit=1)] == [lapsed.id, high.id]
    assert [job.id for job in await store.find_undriven(["flux-schnell"], limit=10)] == [other.id]
    assert await store.find_undriven([], limit=10) == []


async def test_queue_position_counts_better_priority_and_older_jobs_of_the_same_model(store: JobStore) -> None:
    base = a_job()
    jobs = [
        replace(a_job(priority=priority, tenant=tenant, model_id=model), created_at=base.created_at + age)
        for priority, tenant, model, age in [
            ("normal", "alice", "emoji-3d", 0),
            ("normal", "bob", "emoji-3d", 1),
            ("high", "bob", "emoji-3d", 2),
            ("low", "alice", "emoji-3d", -5),
            ("normal", "alice", "flux-schnell", -9),
        ]
    ]
    for job in jobs:
        await store.insert(job)
    assert [await store.queue_position(job) for job in jobs] == [1, 2, 0, 3, 0]


async def test_count_queued_of_one_tenant_and_of_all(store: JobStore, job: Job) -> None:
    await store.insert(a_job(tenant="bob"))
    running = a_job()
    await store.insert(running)
    await claimed(store, running)
    assert await store.count_queued() == 2
    assert await store.count_queued("alice") == 1
    assert await store.count_queued("carol") == 0


async def test_pages_go_newest_first_through_all_of_a_tenants_jobs(store: JobStore) -> None:
    moment = a_job().created_at
    # Five of one instant: only their ids tell them apart.
    jobs = [replace(a_job(), created_at=moment) for _ in range(5)] + [
        replace(a_job(), created_at=moment + age) for age in (-1.0, 1.0)
    ]
    for job in [*jobs, a_job(tenant="bob")]:
        await store.insert(job)
    wanted = [job.id for job in sorted(jobs, key=lambda job: (job.created_at, job.id), reverse=True)]
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
    await store.succeed(await claimed(store, done), RESULT, backend="engine:x")

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
