"""Jobs that the version before has stored: brought into line once, whatever their state, whoever else is at it."""

from typing import Any

import pytest

from configs.settings import JobSettings
from serving.jobs.job import Job, Line
from serving.jobs.store import JobStore
from serving.jobs.upkeep import JobUpkeep
from serving.mongo import Mongo
from tests.serving.house import a_job

SETTINGS = JobSettings()


@pytest.fixture
def store(mongo: Mongo) -> JobStore:
    return JobStore(mongo, SETTINGS)


@pytest.fixture
def upkeep(mongo: Mongo) -> JobUpkeep:
    return JobUpkeep(mongo, SETTINGS)


def as_it_was_stored(job: Job, **changes: Any) -> dict[str, Any]:
    """A whole document of the version before lines, lives and histories; its writer is gone, so it is spelled out."""
    return {
        "_id": job.id,
        "tenant": job.tenant,
        "kind": "image",
        "request": {
            "model_id": "emoji-3d",
            "prompt": "a red apple",
            "negative_prompt": "",
            "width_px": 64,
            "height_px": 64,
            "num_images": 1,
            "seed": "7",
            "num_inference_steps": 2,
            "guidance_scale": 4.5,
            "scheduler": None,
            "loras": [],
            "image": None,
            "mask": None,
            "strength": 1.0,
            "num_partial_images": 0,
            "output_format": "png",
            "output_compression": 100,
        },
        "priority": "normal",
        "priority_rank": 1,
        "model": "emoji-3d",
        "created_at": job.created_at,
        "status": "queued",
        "progress": 0,
        "step": 0,
        "steps": 2,
        "started_at": None,
        "finished_at": None,
        "attempts": 0,
        "lost_workers": 0,
        "not_before": 0.0,
        "fence": 0,
        "owner": None,
        "lease_until": 0.0,
        "backend": None,
        "result": None,
        "error": None,
        "metadata": {},
        "user": None,
        "request_id": "req_1",
        **changes,
    }


RUNNING = {"status": "running", "owner": "dead", "attempts": 1, "fence": 1, "started_at": 1.8e9, "lease_until": 1.8e9}
ENDED = {"attempts": 1, "fence": 1, "started_at": 1.8e9, "finished_at": 1.8e9 + 9}
IMAGE = {
    "key": "tenants/alice/generated-images/-/job/1-0.png",
    "content_type": "image/png",
    "num_bytes": 5,
    "sha256": "ab" * 32,
    "width_px": 64,
    "height_px": 64,
    "seed": "7",
}
OLD: dict[str, dict[str, Any]] = {
    "queued": {},
    "put back": {"not_before": 1.8e9, "attempts": 1, "fence": 1},
    "running": RUNNING,
    "succeeded": {
        **ENDED,
        "status": "succeeded",
        "result": {"images": [IMAGE], "engine_s": 0.5, "waited_s": 0.25},
    },
    "failed": {**ENDED, "status": "failed", "error": {"code": "out_of_memory", "message": "too large"}},
    "cancelled": {**ENDED, "status": "cancelled"},
}


@pytest.mark.parametrize("state", OLD)
async def test_a_job_of_the_version_before_is_found_wherever_a_new_one_would_be(
    store: JobStore, upkeep: JobUpkeep, raw: Any, state: str
) -> None:
    job = a_job()
    await raw["jobs"].insert_one(as_it_was_stored(job, **OLD[state]))
    assert await upkeep.adopt() == 1
    assert await upkeep.adopt() == 0
    adopted = await store.get("alice", job.id)
    assert adopted.expires_at == pytest.approx(job.created_at + 86_400, abs=1e-3)
    assert [found.id for found in await store.page("alice", status=None, kind=None, limit=9, after=None)] == [job.id]
    if adopted.is_final:
        assert await upkeep.due(limit=10) == []
        assert [found.id for found in await upkeep.to_tidy(limit=10)] == [job.id]
        assert bool(adopted.result) is (state == "succeeded")
        assert await upkeep.find_owed(limit=10) == []  # those who wanted to know have asked
        return
    assert [found.id for found in await upkeep.due(limit=10)] == [job.id]
    assert await store.count_queued("alice") == (state != "running")
    if state == "running":
        assert await store.claim(job.id, owner="router-2") is None
        assert await upkeep.release(adopted)
        adopted = await store.get("alice", job.id)
    assert await upkeep.promote(adopted)
    assert await store.heads(["emoji-3d"], limit=9) == {Line("emoji-3d", 1, "alice"): job.id}
    mine = await store.claim(job.id, owner="router-2")
    assert mine is not None
    assert mine.fence == adopted.fence + 1
    assert mine.attempts == OLD[state].get("attempts", 0) + 1


async def test_old_jobs_that_cannot_be_read_do_not_keep_the_others_from_being_adopted(
    store: JobStore, upkeep: JobUpkeep, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.jobs.upkeep.MAX_ADOPTED", 2)
    jobs = [a_job() for _ in range(7)]
    for index, job in enumerate(sorted(jobs, key=lambda job: job.id)):
        broken = {"request": {"odd": 1}} if index in (0, 1, 3, 6) else {}
        await raw["jobs"].insert_one(as_it_was_stored(job, **broken))
    assert await upkeep.adopt() == 3
    assert len(await store.page("alice", status=None, kind=None, limit=9, after=None)) == 3


async def test_a_job_that_another_router_adopted_and_claimed_meanwhile_stays_as_it_is(
    store: JobStore, mongo: Mongo, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = a_job()
    await raw["jobs"].insert_one(as_it_was_stored(job))
    slow, quick = JobUpkeep(mongo, SETTINGS), JobUpkeep(mongo, SETTINGS)
    find = slow._jobs.find

    async def then_the_other(*args: Any, **more: Any) -> list[dict[str, Any]]:
        found = await find(*args, **more)
        await quick.adopt()
        await store.claim(job.id, owner="router-2")
        return found

    monkeypatch.setattr(slow._jobs, "find", then_the_other)
    assert await slow.adopt() == 0
    assert (await store.get("alice", job.id)).owner == "router-2"


async def test_new_jobs_are_not_adopted(store: JobStore, upkeep: JobUpkeep) -> None:
    job = a_job()
    await store.insert(job)
    assert await upkeep.adopt() == 0
    assert await store.get("alice", job.id) == job
