"""The driver: what it stores on success, how each failure ends, and that a lost lease writes nothing."""

import asyncio
import hashlib
import io
import time
from typing import Any

import pytest
from PIL import Image

from models.errors import GenerationError, NotFinite, OutOfMemory
from serving.errors import BackendLost, LeaseLost, Unavailable
from serving.jobs.job import Job
from serving.jobs.store import JobStore
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, eventually

SHORT = {"lease_s": 0.6, "heartbeat_s": 0.15}


async def driven(house: House, job: Job) -> Job:
    ended = await house.drive(job)
    assert ended is not None
    assert ended == await house.store.get(job.tenant, job.id)
    return ended


@pytest.fixture
async def quiet(houses: OpenHouse) -> House:
    """A house whose Router drives only what it is told to."""
    return await houses(sweeps=False)


async def test_a_driven_job_ends_with_its_pictures_in_the_bucket_layout(quiet: House) -> None:
    job = await quiet.insert(num_images=2, seed=41, user="u1")
    ended = await driven(quiet, job)
    assert (ended.status, ended.backend, ended.progress, ended.step, ended.attempts) == (
        "succeeded",
        "engine:emoji-3d",
        100,
        job.steps,
        1,
    )
    assert ended.result is not None
    assert ended.finished_at is not None
    assert ended.started_at is not None
    assert job.created_at <= ended.started_at <= ended.finished_at
    assert [image.seed for image in ended.result.images] == [41, 42]
    prefix = f"tenants/alice/generated-images/u1/{job.id}/"
    assert [image.key for image in ended.result.images] == [f"{prefix}1-0.png", f"{prefix}1-1.png"]
    assert quiet.blobs.keys == [f"{prefix}1-0.png", f"{prefix}1-1.png"]
    for image in ended.result.images:
        data = quiet.blobs.get(image.key)
        assert (image.num_bytes, image.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert quiet.blobs.head(image.key).content_type == image.content_type == "image/png"
        with Image.open(io.BytesIO(data)) as opened:
            assert opened.size == (image.width_px, image.height_px) == (64, 64)


@pytest.mark.parametrize(("output_format", "extension"), [("png", "png"), ("jpeg", "jpeg"), ("webp", "webp")])
async def test_the_key_ends_as_the_format_says(quiet: House, output_format: str, extension: str) -> None:
    ended = await driven(quiet, await quiet.insert(output_format=output_format))
    assert ended.result is not None
    (image,) = ended.result.images
    assert image.key.endswith(f"/1-0.{extension}")
    assert image.content_type == f"image/{output_format}"


async def test_the_largest_seed_goes_all_the_way(quiet: House) -> None:
    ended = await driven(quiet, await quiet.insert(seed=2**63 - 1))
    assert ended.result is not None
    assert ended.result.images[0].seed == ended.request.seed == 2**63 - 1


async def test_waiting_before_the_engine_is_counted(quiet: House) -> None:
    job = await quiet.insert()
    ended = await quiet.driver.drive(job.id, taken_at=time.time() - 3.0)
    assert ended is not None
    assert ended.result is not None
    assert 3.0 <= ended.result.waited_s < 4.0


@pytest.mark.parametrize(
    ("error", "code"),
    [(OutOfMemory("too large"), "out_of_memory"), (NotFinite("NaN"), "not_finite"), (GenerationError("no"), "generation_failed")],
)
async def test_a_requests_own_failure_ends_the_job_with_its_code(quiet: House, error: Exception, code: str) -> None:
    quiet.backend.troubles.append(error)
    ended = await driven(quiet, await quiet.insert())
    assert ended.error is not None
    assert (ended.status, ended.error.code, ended.error.message) == ("failed", code, str(error))
    assert quiet.blobs.keys == []


async def test_a_lost_backend_puts_the_job_back_and_the_next_attempt_makes_it(quiet: House) -> None:
    quiet.backend.troubles.append(BackendLost("its process died"))
    job = await quiet.insert()
    back = await driven(quiet, job)
    assert (back.status, back.attempts, back.owner) == ("queued", 1, None)
    ended = await driven(quiet, job)
    assert (ended.status, ended.attempts) == ("succeeded", 2)
    assert ended.result is not None
    assert ended.result.images[0].key.endswith("/2-0.png")


async def test_after_the_last_attempt_the_job_fails_and_the_backend_is_not_asked_again(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"max_attempts": 2})
    house.backend.troubles.extend(BackendLost("its process died") for _ in range(9))
    job = await house.insert()
    outcomes = [(await driven(house, job)).status for _ in range(3)]
    ended = await house.store.get("alice", job.id)
    assert outcomes == ["queued", "queued", "failed"]
    assert ended.error is not None
    assert ended.error.code == "attempts_exhausted"
    assert len(house.backend.calls) == 2


async def test_a_store_that_is_away_puts_the_job_back_and_later_keeps_the_pictures(quiet: House) -> None:
    job = await quiet.insert()
    quiet.blobs.is_down = True
    assert (await driven(quiet, job)).status == "queued"
    quiet.blobs.is_down = False
    assert (await driven(quiet, job)).status == "succeeded"


async def test_a_model_that_no_backend_has_fails_with_the_reasons(quiet: House) -> None:
    ended = await driven(quiet, await quiet.insert(model_id="sdxl"))
    assert ended.error is not None
    assert (ended.status, ended.error.code) == ("failed", "generation_failed")
    assert "engine:emoji-3d: does not have sdxl" in ended.error.message


async def test_a_job_that_another_router_has_is_left_alone(quiet: House) -> None:
    job = await quiet.insert()
    await quiet.store.claim(job.id, owner="router-2")
    assert await quiet.drive(job) is None
    assert quiet.backend.calls == []


async def test_the_heartbeat_keeps_the_lease_over_a_run_of_many_leases(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs=SHORT)
    house.backend.gate.clear()
    job = await house.insert()
    running = asyncio.create_task(house.drive(job))
    deadline = time.monotonic() + 2.5 * SHORT["lease_s"]
    while time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        assert await house.store.claim(job.id, owner="router-2") is None or not house.backend.calls
    house.backend.gate.set()
    ended = await running
    assert ended is not None
    assert (ended.status, ended.attempts, ended.fence) == ("succeeded", 1, 1)


async def test_a_lease_lost_in_mid_run_stops_the_backend_and_writes_nothing(houses: OpenHouse, raw: Any) -> None:
    house = await houses(sweeps=False, jobs=SHORT)
    house.backend.gate.clear()
    job = await house.insert()
    running = asyncio.create_task(house.drive(job))
    await eventually(lambda: house.backend.calls)
    await raw["jobs"].update_one({"_id": job.id}, {"$set": {"owner": "router-2"}, "$inc": {"fence": 1, "attempts": 1}})
    theirs = await house.store.get("alice", job.id)
    assert await running is None
    assert house.backend.num_cancelled == 1
    assert house.backend.num_running == 0
    assert await house.store.get("alice", job.id) == theirs
    assert house.blobs.keys == []


async def test_a_lease_lost_while_the_pictures_were_uploaded_commits_nothing(
    houses: OpenHouse, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await houses(sweeps=False)
    job = await house.insert()
    stolen = {"$set": {"owner": "router-2", "lease_until": time.time() - 1}, "$inc": {"fence": 1}}
    succeed = house.store.succeed

    async def succeed_too_late(*args: Any, **kwargs: Any) -> Job:
        await raw["jobs"].update_one({"_id": job.id}, stolen)
        return await succeed(*args, **kwargs)

    monkeypatch.setattr(house.store, "succeed", succeed_too_late)
    assert await house.drive(job) is None
    left = await house.store.get("alice", job.id)
    assert (left.status, left.owner, left.result) == ("running", "router-2", None)
    monkeypatch.setattr(house.store, "succeed", succeed)
    ended = await driven(house, job)
    assert ended.result is not None
    # What the loser uploaded lies under its own fence and is not what the job points at.
    assert [image.key.rsplit("/")[-1] for image in ended.result.images] == ["3-0.png"]


async def test_a_job_over_its_deadline_fails_and_the_backend_is_freed(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"run_deadline_s": 0.3})
    house.backend.gate.clear()
    ended = await driven(house, await house.insert())
    assert ended.error is not None
    assert (ended.status, ended.error.code) == ("failed", "deadline")
    assert (house.backend.num_cancelled, house.backend.num_running) == (1, 0)


async def test_a_backends_own_timeout_is_not_told_as_the_jobs_deadline(quiet: House) -> None:
    quiet.backend.troubles.append(TimeoutError("a socket"))
    job = await quiet.insert()
    with pytest.raises(TimeoutError, match="a socket"):
        await quiet.drive(job)
    assert (await quiet.store.get("alice", job.id)).error is None


async def test_a_lease_lost_at_the_deadline_is_no_error(houses: OpenHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    house = await houses(sweeps=False, jobs={"run_deadline_s": 0.2})
    house.backend.gate.clear()

    async def lost(*_args: Any) -> Job:
        raise LeaseLost("taken over")

    monkeypatch.setattr(house.store, "fail", lost)
    assert await house.drive(await house.insert()) is None


async def test_a_progress_write_that_fails_does_not_throw_the_run_away(
    quiet: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_args: Any, **_kwargs: Any) -> None:
        raise Unavailable("the database is away")

    monkeypatch.setattr(quiet.store, "write_progress", away)
    ended = await driven(quiet, await quiet.insert())
    assert (ended.status, ended.attempts) == ("succeeded", 1)


async def test_heartbeats_that_fail_for_a_while_do_not_end_the_run(
    houses: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await houses(sweeps=False, jobs=SHORT)
    house.backend.gate.clear()
    misses: list[int] = []

    async def away(_job: Job) -> None:
        misses.append(1)
        raise Unavailable("the database is away")

    monkeypatch.setattr(house.store, "renew", away)
    job = await house.insert()
    running = asyncio.create_task(house.drive(job))
    await eventually(lambda: len(misses) >= 2)
    house.backend.gate.set()
    ended = await running
    assert ended is not None
    assert ended.status == "succeeded"


async def test_a_bug_in_a_backend_leaves_the_job_to_the_lease_and_the_next_attempt(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"lease_s": 0.3, "heartbeat_s": 0.1})
    house.backend.troubles.append(ZeroDivisionError("a bug"))
    job = await house.insert()
    with pytest.raises(ZeroDivisionError):
        await house.drive(job)
    assert await house.drive(job) is None
    await asyncio.sleep(0.35)
    assert (await driven(house, job)).status == "succeeded"


async def test_progress_is_written_while_the_backend_works(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"progress_write_s": 0.001})
    house.backend.gate.clear()
    job = await house.insert(num_inference_steps=4)
    running = asyncio.create_task(house.drive(job))

    async def is_shown() -> bool:
        now = await house.store.get("alice", job.id)
        return now.status == "running" and now.progress > 0 and now.step > 0 and now.steps == 4

    await eventually(is_shown)
    house.backend.gate.set()
    await running


async def test_jobs_of_one_router_run_side_by_side(quiet: House) -> None:
    quiet.backend.gate.clear()
    jobs = [await quiet.insert() for _ in range(3)]
    running = [asyncio.create_task(quiet.drive(job)) for job in jobs]
    await eventually(lambda: quiet.backend.num_running == 3)
    quiet.backend.gate.set()
    assert {ended.status for ended in await asyncio.gather(*running) if ended} == {"succeeded"}


async def test_a_store_over_the_same_database_sees_the_same_end(quiet: House) -> None:
    ended = await driven(quiet, await quiet.insert())
    other = JobStore(quiet.mongo, quiet.services.settings.jobs)
    assert await other.get("alice", ended.id) == ended
