"""The caretaker: leftovers, inputs and old jobs go, objects before documents, and nothing that somebody needs."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from configs.settings import JobSettings, Settings
from models.blobs import BlobStore
from models.errors import BlobError
from pipelines.request import StoredFile
from serving.errors import NotFound, Unavailable
from serving.jobs import caretaker as caretaker_module
from serving.jobs.caretaker import MAX_JOBS, SWEEP, Caretaker
from serving.jobs.job import Job, JobError, JobResult, StoredImage, input_prefix
from serving.jobs.store import JobStore
from serving.jobs.upkeep import JobUpkeep
from serving.mongo import Mongo
from serving.tenancy.tenants import Tenants
from tests.fakes import MemoryBlobs
from tests.serving.caretakers import a_caretaker
from tests.serving.house import a_job, eventually

DAY_S = 86_400.0
SETTINGS = JobSettings(sweep_after_s=1.0, temp_keep_s=DAY_S, keep_s=30 * DAY_S)


class OldKeys:
    """A collection of so many old documents."""

    def __init__(self, num_old: int) -> None:
        self.num_old = num_old
        self.is_away = False

    async def delete_old(self, *, limit: int) -> int:
        if self.is_away:
            raise Unavailable("The job database did not answer.")
        num_deleted = min(limit, self.num_old)
        self.num_old -= num_deleted
        return num_deleted


@dataclass
class Bench:
    """A caretaker over a true database, and jobs that ended as long ago as a test says."""

    mongo: Mongo
    raw: Any
    blobs: Any
    store: JobStore
    upkeep: JobUpkeep
    tenants: Tenants
    old_keys: OldKeys

    def caretaker(self, owner: str = "router-1") -> Caretaker:
        return a_caretaker(self.mongo, self.blobs, Settings(jobs=SETTINGS), owner=owner, forgetful=[self.old_keys])

    async def ended(self, how: str, *, ago_s: float, tenant: str = "alice", has_input: bool = False) -> Job:
        """A job that lost its first attempt, made a picture in its second, and ended like this so long ago."""
        image = StoredFile("temp/somewhere/image.png", "0" * 64) if has_input else None
        job = a_job(tenant=tenant, image=image)
        await self.store.insert(job)
        self.put(f"{input_prefix(job.id)}image.png")
        await self.raw["jobs"].update_one({"_id": job.id}, {"$set": {"fence": 4, "attempts": 1}})
        mine = await self.store.claim(job.id, owner="router-1")
        assert mine is not None
        for fence in (4, mine.fence):
            self.put(f"{job.output_prefix}{fence}-0.png")
        match how:
            case "succeeded":
                image_at = StoredImage(f"{job.output_prefix}{mine.fence}-0.png", "image/png", 1, "0" * 64, 8, 8, 1)
                await self.store.succeed(mine, JobResult((image_at,), 1.0, 0.0), backend="engine:x", device_s=1.0)
            case "failed":
                await self.store.fail(mine, JobError("code", "message"))
            case "cancelled":
                await self.store.cancel(tenant, job.id)
        past = time.time() - ago_s
        times = {"finished_at": past, "tidy_at": past + SETTINGS.sweep_after_s, "owed_at": 0.0}
        await self.raw["jobs"].update_one({"_id": job.id}, {"$set": times})
        return await self.store.get(tenant, job.id)

    def put(self, *keys: str) -> None:
        for key in keys:
            self.blobs.put(key, b"bytes", "image/png")

    def names(self, prefix: str) -> list[str]:
        return [blob.key.removeprefix(prefix) for blob in self.blobs.list(prefix)]

    async def again(self, job: Job) -> Job:
        return await self.store.get(job.tenant, job.id)

    async def is_gone(self, job: Job) -> bool:
        try:
            await self.again(job)
        except NotFound:
            return True
        return False


@pytest_asyncio.fixture
async def bench(mongo: Mongo, raw: Any) -> Bench:
    tenants = Tenants(mongo)
    for tenant in ("alice", "bob"):
        await tenants.ensure(tenant)
    return Bench(mongo, raw, MemoryBlobs(), JobStore(mongo, SETTINGS), JobUpkeep(mongo, SETTINGS), tenants, OldKeys(0))


@pytest.mark.parametrize(("how", "left"), [("succeeded", ["5-0.png"]), ("failed", []), ("cancelled", [])])
async def test_what_lost_attempts_have_stored_goes_and_what_the_job_points_at_stays(
    bench: Bench, how: str, left: list[str]
) -> None:
    job = await bench.ended(how, ago_s=60)
    other = await bench.ended("succeeded", ago_s=0)
    assert not await bench.caretaker().tidy()
    assert bench.names(job.output_prefix) == left
    assert bench.names(input_prefix(job.id)) == ["image.png"]
    assert (await bench.again(job)).tidy_at > time.time(), "there will be more to do"
    assert bench.names(other.output_prefix) == ["4-0.png", "5-0.png"], "its moment has not come"


async def test_inputs_are_kept_for_a_day_and_then_go(bench: Bench) -> None:
    young = await bench.ended("failed", ago_s=DAY_S - 600, has_input=True)
    old = await bench.ended("failed", ago_s=DAY_S + 1, has_input=True)
    await bench.caretaker().tidy()
    assert bench.names(input_prefix(young.id)) == ["image.png"]
    assert (await bench.again(young)).tidy_at == pytest.approx(young.finished_at + DAY_S)
    assert bench.names(input_prefix(old.id)) == []
    assert not await bench.is_gone(old)


async def test_a_job_goes_after_its_tenants_time_with_all_it_has_stored(bench: Bench) -> None:
    await bench.tenants.change("bob", keep_jobs_s=3_600.0)
    alices = await bench.ended("succeeded", ago_s=7_200, has_input=True)
    bobs = await bench.ended("succeeded", ago_s=7_200, tenant="bob", has_input=True)
    old = await bench.ended("succeeded", ago_s=31 * DAY_S)
    await bench.caretaker().tidy()
    assert await bench.is_gone(bobs)
    assert bench.names(bobs.output_prefix) == bench.names(input_prefix(bobs.id)) == []
    assert await bench.is_gone(old)
    assert bench.names(alices.output_prefix) == ["5-0.png"]
    assert not await bench.is_gone(alices)


async def test_a_job_stays_until_webhooks_know_how_it_ended(bench: Bench) -> None:
    job = await bench.ended("succeeded", ago_s=31 * DAY_S)
    await bench.raw["jobs"].update_one({"_id": job.id}, {"$set": {"owed_at": time.time()}})
    await bench.caretaker().tidy()
    assert bench.names(job.output_prefix) == ["5-0.png"]
    assert not await bench.is_gone(job)


async def test_a_job_that_is_tried_again_meanwhile_loses_nothing_of_its_new_life(bench: Bench) -> None:
    job = await bench.ended("failed", ago_s=31 * DAY_S)
    remove = bench.blobs.delete_many

    def retried_just_before(keys: Iterable[str]) -> int:
        doomed = list(keys)
        asyncio.run_coroutine_threadsafe(begin_again(), loop).result(20)
        return remove(doomed)

    async def begin_again() -> None:
        await bench.store.retry("alice", job.id, expires_at=time.time() + 60)
        mine = await bench.store.claim(job.id, owner="router-2")
        assert mine is not None
        bench.put(f"{job.output_prefix}{mine.fence}-0.png")

    loop = asyncio.get_running_loop()
    bench.blobs.delete_many = retried_just_before
    await bench.caretaker().tidy()
    again = await bench.again(job)
    assert (again.status, again.tidy_at) == ("running", 0.0)
    assert bench.names(job.output_prefix) == [f"{again.fence}-0.png"]


async def test_while_the_object_store_is_away_nothing_is_called_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caretaker_module, "RETRY_S", 0.0)
    jobs = [await bench.ended("succeeded", ago_s=31 * DAY_S) for _ in range(3)]
    bench.blobs.is_down = True
    assert not await bench.caretaker().tidy()
    assert [await bench.is_gone(job) for job in jobs] == [False] * 3
    bench.blobs.is_down = False
    await bench.caretaker().tidy()
    assert [await bench.is_gone(job) for job in jobs] == [True] * 3
    assert bench.blobs.keys == [f"{input_prefix(job.id)}image.png" for job in jobs], "of jobs that have no input"


async def test_one_job_whose_objects_cannot_be_removed_does_not_keep_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = await bench.ended("failed", ago_s=120), await bench.ended("failed", ago_s=60)
    remove = bench.blobs.delete_many

    def refuse_one(keys: Iterable[str]) -> int:
        doomed = list(keys)
        if any(bad.id in key for key in doomed):
            raise BlobError("refused")
        return remove(doomed)

    bench.blobs.delete_many = refuse_one
    monkeypatch.setattr(caretaker_module, "NUM_TOGETHER", 1)
    for _ in range(2):
        await bench.caretaker().tidy()
    assert bench.names(good.output_prefix) == []
    assert len(bench.names(bad.output_prefix)) == 2
    assert (await bench.again(bad)).tidy_at > time.time(), "later"


async def test_a_pass_is_bounded_and_says_that_there_is_more(bench: Bench) -> None:
    job = await bench.ended("succeeded", ago_s=60)
    document = await bench.raw["jobs"].find_one({"_id": job.id})
    copies = [{**document, "_id": f"{job.id}{number:03}"} for number in range(MAX_JOBS)]
    await bench.raw["jobs"].insert_many(copies)
    assert await bench.caretaker().tidy()
    assert not await bench.caretaker().tidy()
    assert await bench.upkeep.to_tidy(limit=1) == []


async def test_the_sweep_removes_old_inputs_of_jobs_that_never_came_to_be(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = a_job()
    await bench.store.insert(waiting)
    keys = [f"{input_prefix(waiting.id)}image.png", "temp/job_never/image.png", "temp/job_never/mask.png"]
    bench.put(*keys)
    await bench.caretaker().sweep()
    assert bench.blobs.keys == sorted(keys), "they may be on their way into a job"
    later = time.time() + DAY_S + 1
    monkeypatch.setattr(caretaker_module.time, "time", lambda: later)
    await bench.caretaker().sweep()
    assert bench.blobs.keys == keys[:1]


async def test_the_sweep_deletes_old_documents_in_rounds(bench: Bench) -> None:
    bench.old_keys.num_old = 250
    await bench.caretaker().sweep()
    assert bench.old_keys.num_old == 0


async def test_of_several_routers_one_works_and_a_sweep_is_made_once_an_hour(bench: Bench) -> None:
    job = await bench.ended("failed", ago_s=60)
    bench.old_keys.num_old = 5
    await asyncio.gather(*(bench.caretaker(f"router-{number}").work_once() for number in range(4)))
    assert bench.names(job.output_prefix) == []
    assert bench.old_keys.num_old == 0
    bench.old_keys.num_old = 5
    await bench.caretaker().work_once()
    assert bench.old_keys.num_old == 5


async def test_a_sweep_that_broke_off_is_made_again_before_the_hour_is_over(bench: Bench) -> None:
    bench.old_keys.is_away = True
    with pytest.raises(Unavailable):
        await bench.caretaker().work_once()
    turn = await bench.raw["chores"].find_one({"_id": SWEEP})
    assert turn["until"] < time.time() + 300


async def test_the_loop_outlives_what_goes_wrong_and_what_takes_too_long(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caretaker_module, "PAUSE_S", 0.01)
    monkeypatch.setattr(caretaker_module, "TURN_S", 0.5)
    troubles: list[Exception | None] = [ValueError("a bug"), Unavailable("away"), BlobError("away"), None]
    caretaker = bench.caretaker()
    work_once = caretaker.work_once

    async def trouble_first() -> bool:
        if not troubles:
            return await work_once()
        if (trouble := troubles.pop()) is None:
            await asyncio.sleep(60)
        raise trouble or AssertionError("it was not broken off")

    monkeypatch.setattr(caretaker, "work_once", trouble_first)
    bench.old_keys.num_old = 5
    working = asyncio.create_task(caretaker.run_forever())
    await eventually(lambda: bench.old_keys.num_old == 0)
    assert not working.done()
    working.cancel()


async def test_leftovers_and_inputs_go_from_a_true_store_too(bench: Bench, blobs: BlobStore) -> None:
    bench.blobs = blobs
    job = await bench.ended("succeeded", ago_s=DAY_S + 60, has_input=True)
    old = await bench.ended("succeeded", ago_s=31 * DAY_S, has_input=True)
    await bench.caretaker().tidy()
    assert bench.names(job.output_prefix) == ["5-0.png"]
    assert bench.names(input_prefix(job.id)) == bench.names(input_prefix(old.id)) == []
    assert bench.names(old.output_prefix) == []
    assert await bench.is_gone(old)
