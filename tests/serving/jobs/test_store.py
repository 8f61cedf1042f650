"""JobStore: one claimer at a time, refused stale writers, tenants kept apart, and what each write leaves behind."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from configs.settings import JobSettings, MongoSettings
from pipelines.request import Progress
from serving.errors import Conflict, LeaseLost, NotFound
from serving.jobs.job import Attempt, Job, JobError, JobResult, Line
from serving.jobs.store import JobStore
from serving.jobs.upkeep import JobUpkeep
from serving.mongo import Mongo
from tests.serving.house import a_job

SETTINGS = JobSettings(lease_s=10.0, retry_base_s=2.0)
RESULT = JobResult(images=(), engine_s=0.5, waited_s=0.1)
TROUBLE = JobError("out_of_memory", "too large")
NUM_CLAIMERS, NUM_JOBS = 8, 200
WRITES: dict[str, Callable[[JobStore, Job], Awaitable[Any]]] = {
    "renew": lambda store, job: store.renew(job),
    "write_progress": lambda store, job: store.write_progress(job, Progress(1, 2, 0.5)),
    "succeed": lambda store, job: store.succeed(job, RESULT, backend="engine:x", device_s=1.0),
    "fail": lambda store, job: store.fail(job, JobError("code", "message")),
    "put_back": lambda store, job: store.put_back(job, TROUBLE, delay_s=9, backend=None, counts="failures"),
    "hand_back": lambda store, job: store.hand_back(job),
}
LETS_GO = ["succeed", "fail", "put_back", "hand_back"]


def moment(at: float) -> Any:
    """A time as the database gives it back: the embedded one rounds what it updates to microseconds."""
    return pytest.approx(at, abs=1e-4)


@pytest.fixture
def store(mongo: Mongo) -> JobStore:
    return JobStore(mongo, SETTINGS)


@pytest.fixture
def upkeep(mongo: Mongo) -> JobUpkeep:
    return JobUpkeep(mongo, SETTINGS)


@pytest_asyncio.fixture
async def job(store: JobStore) -> Job:
    job = a_job()
    await store.insert(job)
    return job


async def claimed(store: JobStore, job: Job, owner: str = "router-1") -> Job:
    mine = await store.claim(job.id, owner=owner)
    assert mine is not None
    return mine


async def test_a_job_is_stored_as_it_is_and_once(store: JobStore, job: Job) -> None:
    assert await store.get("alice", job.id) == job
    with pytest.raises(Conflict):
        await store.insert(job)


async def test_another_tenants_job_is_not_found_and_neither_is_one_that_is_not(store: JobStore, job: Job) -> None:
    for tenant, job_id in (("bob", job.id), ("alice", "job_none"), ("alice", "")):
        for asked in (store.get, store.cancel):
            with pytest.raises(NotFound) as caught:
                await asked(tenant, job_id)
            assert caught.value.code == "job_not_found"
        with pytest.raises(NotFound):
            await store.retry(tenant, job_id, expires_at=4e9)


@pytest.mark.parametrize("way", ["claim", "claim_next"])
async def test_a_claimed_job_is_its_owners_and_nobody_elses(store: JobStore, job: Job, way: str) -> None:
    async def claim(owner: str) -> Job | None:
        if way == "claim":
            return await store.claim(job.id, owner=owner)
        return await store.claim_next(Line.of(job), owner=owner)

    claims = await asyncio.gather(*(claim(f"router-{i}") for i in range(8)))
    (mine,) = [claim for claim in claims if claim is not None]
    assert (mine.status, mine.attempts, mine.fence) == ("running", 1, 1)
    assert mine.owner is not None
    assert mine.started_at is not None
    assert mine.wake_at == moment(mine.started_at + SETTINGS.lease_s)
    assert mine.owed_at == mine.started_at
    assert await store.get("alice", job.id) == mine
    assert await claim("router-9") is None


async def test_eight_claimers_of_two_hundred_jobs_get_each_of_them_once(
    mongo_settings: MongoSettings, store: JobStore
) -> None:
    """Half of them ask for jobs by name, half for the next of a line, each over a connection of its own."""
    jobs = [a_job(tenant=f"t{index % 5}", priority=("low", "high")[index % 2]) for index in range(NUM_JOBS)]
    for job in jobs:
        await store.insert(job)

    async def claim_all(number: int) -> list[str]:
        mongo, dice, won = Mongo(mongo_settings), random.Random(number), list[str]()
        mine = JobStore(mongo, SETTINGS)
        for job in dice.sample(jobs, NUM_JOBS):
            owner = f"router-{number}"
            by_name, in_turn = mine.claim(job.id, owner=owner), mine.claim_next(Line.of(job), owner=owner)
            first, second = (by_name, in_turn) if number % 2 else (in_turn, by_name)
            second.close()
            claim = await first
            if claim is not None:
                assert (claim.owner, claim.attempts, claim.fence) == (owner, 1, 1)
                won.append(claim.id)
        await mongo.close()
        return won

    won = await asyncio.gather(*(claim_all(number) for number in range(NUM_CLAIMERS)))
    assert sorted(job_id for of_one in won for job_id in of_one) == sorted(job.id for job in jobs)
    assert sum(bool(of_one) for of_one in won) > 1
    assert await store.count_queued() == 0


async def test_claim_next_takes_the_oldest_of_its_own_line(store: JobStore) -> None:
    base = a_job()
    others = [a_job(priority="high"), a_job(tenant="alice-1"), a_job(tenant="alic"), a_job(model_id="emoji-3d1")]
    mine = [replace(a_job(), id=f"{base.id[:-2]}{index:02}") for index in range(3)]
    for job in [*others, mine[2], mine[0], mine[1]]:
        await store.insert(job)
    line = Line.of(mine[0])
    taken = [await store.claim_next(line, owner="router-1") for _ in range(4)]
    assert [job and job.id for job in taken] == [*(job.id for job in mine), None]
    assert await store.count_queued() == len(others)


async def test_progress_and_heartbeats_renew_the_lease(store: JobStore, job: Job) -> None:
    mine = await claimed(store, job)
    await asyncio.sleep(0.02)
    await store.write_progress(mine, Progress(3, 4, 1.5))
    after_progress = await store.get("alice", job.id)
    assert (after_progress.step, after_progress.steps, after_progress.progress) == (3, 4, 75)
    assert after_progress.device_s == 1.5
    await asyncio.sleep(0.02)
    await store.renew(mine)
    after_beat = await store.get("alice", job.id)
    assert mine.wake_at < after_progress.wake_at < after_beat.wake_at
    assert replace(after_beat, wake_at=after_progress.wake_at) == after_progress


@pytest.mark.parametrize("name", WRITES)
async def test_whoever_was_released_writes_nothing_before_the_next_claim_and_after_it(
    store: JobStore, upkeep: JobUpkeep, job: Job, name: str
) -> None:
    stale = await claimed(store, job)
    assert await upkeep.release(stale)
    for _ in ("released", "in line again", "claimed by another", "ended by another"):
        before = await store.get("alice", job.id)
        with pytest.raises(LeaseLost):
            await WRITES[name](store, stale)
        assert await store.get("alice", job.id) == before
        match before.status, before.not_before:
            case "queued", 0:
                await claimed(store, job, "router-2")
            case "queued", _:
                assert await upkeep.promote(before)
            case "running", _:
                await store.succeed(before, RESULT, backend="engine:x", device_s=1.0)


@pytest.mark.parametrize("end", [*LETS_GO, "cancel"])
@pytest.mark.parametrize("name", WRITES)
async def test_whoever_let_go_of_a_job_writes_no_more(store: JobStore, job: Job, name: str, end: str) -> None:
    mine = await claimed(store, job)
    await (store.cancel("alice", job.id) if end == "cancel" else WRITES[end](store, mine))
    before = await store.get("alice", job.id)
    with pytest.raises(LeaseLost):
        await WRITES[name](store, mine)
    assert await store.get("alice", job.id) == before


async def test_succeed_stores_the_result_and_owes_the_news_of_it(store: JobStore, job: Job) -> None:
    ended = await store.succeed(await claimed(store, job), RESULT, backend="engine:x", device_s=2.5)
    assert ended == await store.get("alice", job.id)
    assert (ended.status, ended.result, ended.backend, ended.progress) == ("succeeded", RESULT, "engine:x", 100)
    assert (ended.step, ended.owner, ended.error, ended.device_s) == (job.steps, None, None, 2.5)
    assert ended.finished_at is not None
    assert ended.finished_at >= job.created_at
    assert (ended.owed_at, ended.wake_at) == (ended.finished_at, 0.0)
    assert ended.tidy_at == moment(ended.finished_at + SETTINGS.sweep_after_s)


async def test_fail_stores_the_reason_and_what_was_tried(store: JobStore, job: Job) -> None:
    mine = await claimed(store, job)
    ended = await store.fail(mine, TROUBLE, backend="engine:x")
    assert ended == await store.get("alice", job.id)
    assert (ended.status, ended.error, ended.result) == ("failed", TROUBLE, None)
    (attempt,) = ended.history
    assert (attempt.number, attempt.code, attempt.message, attempt.backend) == (
        1,
        "out_of_memory",
        "too large",
        "engine:x",
    )
    assert attempt.started_at == mine.started_at
    assert (ended.owed_at, ended.wake_at) == (ended.finished_at, 0.0)


@pytest.mark.parametrize("end", ["succeed", "fail"])
async def test_a_job_that_ended_is_never_claimed(store: JobStore, job: Job, end: str) -> None:
    await WRITES[end](store, await claimed(store, job))
    assert await store.claim(job.id, owner="router-2") is None
    assert await store.claim_next(Line.of(job), owner="router-2") is None
    assert await store.heads(["emoji-3d"], limit=10) == {}


async def test_a_job_handed_back_has_its_place_in_line_again_and_no_blame(store: JobStore, job: Job) -> None:
    await store.insert(replace(a_job(), id=job.id + "0"))
    mine = await claimed(store, job)
    await store.write_progress(mine, Progress(1, 2, 0.5))
    back = await store.hand_back(mine)
    assert (back.status, back.owner, back.progress, back.step) == ("queued", None, 0, 0)
    assert (back.failures, back.lost_workers, back.history) == (0, 0, ())
    assert back.wake_at == moment(job.expires_at)
    assert await store.heads(["emoji-3d"], limit=10) == {Line.of(job): job.id}
    again = await store.claim_next(Line.of(job), owner="router-2")
    assert again is not None
    assert (again.id, again.fence) == (job.id, 2)


async def test_a_job_put_back_waits_out_of_line_and_counts_as_waiting(
    store: JobStore, upkeep: JobUpkeep, job: Job
) -> None:
    back = await store.put_back(await claimed(store, job), TROUBLE, delay_s=9.0, backend=None, counts=None)
    assert await store.claim(job.id, owner="router-2") is None
    assert await store.claim_next(Line.of(job), owner="router-2") is None
    assert await store.heads(["emoji-3d"], limit=10) == {}
    assert await store.count_queued("alice") == 1
    assert back.wake_at == back.not_before
    assert back.not_before == pytest.approx(time.time() + 9.0, abs=5)
    assert await upkeep.due(limit=10) == []


async def test_a_job_put_back_for_longer_than_it_may_live_is_looked_at_when_its_life_is_over(store: JobStore) -> None:
    job = a_job(expires_in_s=5.0)
    await store.insert(job)
    back = await store.put_back(await claimed(store, job), TROUBLE, delay_s=60, backend=None, counts=None)
    assert back.wake_at == moment(job.expires_at)
    assert back.wake_at < back.not_before


@pytest.mark.parametrize(("counts", "counted"), [("failures", (1, 0)), ("lost_workers", (0, 1)), (None, (0, 0))])
async def test_each_kind_of_trouble_is_counted_apart_and_all_are_remembered(
    store: JobStore, upkeep: JobUpkeep, job: Job, counts: Any, counted: tuple[int, int]
) -> None:
    for number in (1, 2):
        mine = await claimed(store, job)
        back = await store.put_back(mine, TROUBLE, delay_s=0, backend="engine:x", counts=counts)
        assert (back.failures, back.lost_workers) == (number * counted[0], number * counted[1])
        assert back.attempts == number
        assert await upkeep.promote(back)
    assert [(attempt.number, attempt.code) for attempt in back.history] == [(1, "out_of_memory"), (2, "out_of_memory")]
    assert isinstance(back.history[0], Attempt)


async def test_seconds_of_the_device_add_up_over_attempts(store: JobStore, job: Job) -> None:
    first = await claimed(store, job)
    await store.write_progress(first, Progress(1, 2, 2.0))
    await store.hand_back(first)
    second = await claimed(store, job)
    await store.write_progress(second, Progress(1, 2, 0.5))
    assert (await store.get("alice", job.id)).device_s == 2.5
    assert (await store.succeed(second, RESULT, backend="engine:x", device_s=3.0)).device_s == 5.0


async def test_cancelling_ends_a_waiting_and_a_running_job_and_owes_the_news(store: JobStore) -> None:
    waiting, running = a_job(), a_job()
    for job in (waiting, running):
        await store.insert(job)
    await claimed(store, running)
    for job in (waiting, running):
        ended = await store.cancel("alice", job.id)
        assert (ended.status, ended.owner, ended.wake_at) == ("cancelled", None, 0.0)
        assert ended.owed_at == ended.finished_at
    assert await store.count_queued() == 0
