"""The driver: what it stores on success, and how each failure ends."""

import asyncio
import hashlib
import io
from typing import Any

import pytest
from PIL import Image

from models.errors import GenerationError, NotFinite
from serving.errors import Unavailable
from serving.jobs.job import Job, Line
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, eventually


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
    mine = await quiet.driver.claim(job.id)
    assert mine is not None
    ended = await quiet.driver.drive(mine, waited_s=3.0)
    assert ended is not None
    assert ended.result is not None
    assert 3.0 <= ended.result.waited_s < 4.0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFinite("NaN"), "not_finite"),
        (GenerationError("no"), "generation_failed"),
    ],
)
async def test_a_requests_own_failure_ends_the_job_with_its_code(quiet: House, error: Exception, code: str) -> None:
    quiet.backend.troubles.append(error)
    ended = await driven(quiet, await quiet.insert())
    assert ended.error is not None
    assert (ended.status, ended.error.code, ended.error.message) == ("failed", code, str(error))
    assert (ended.attempts, quiet.blobs.keys) == (1, [])
    assert [(attempt.code, attempt.backend) for attempt in ended.history] == [(code, "engine:emoji-3d")]


async def test_a_model_that_no_backend_has_fails_with_the_reasons(quiet: House) -> None:
    ended = await driven(quiet, await quiet.insert(model_id="sdxl"))
    assert ended.error is not None
    assert (ended.status, ended.error.code) == ("failed", "generation_failed")
    assert "engine:emoji-3d: does not have sdxl" in ended.error.message


async def test_a_job_that_another_router_has_is_left_alone(quiet: House) -> None:
    job = await quiet.insert()
    await quiet.store.claim(job.id, owner="router-2")
    assert await quiet.driver.claim(job.id) is None
    assert await quiet.driver.claim_next(Line.of(job)) is None


async def test_the_next_of_a_line_is_driven_like_one_that_was_named(quiet: House) -> None:
    first, second = sorted([await quiet.insert() for _ in range(2)], key=lambda job: job.id)
    mine = await quiet.driver.claim_next(Line.of(second))
    assert mine is not None
    ended = await quiet.driver.drive(mine, waited_s=0.0)
    assert ended is not None
    assert (ended.id, ended.status) == (first.id, "succeeded")


async def test_seconds_of_the_device_are_told_on_the_way_and_at_the_end(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"progress_write_s": 0.001})
    house.backend.step_s, house.backend.step_device_s = 0.005, 0.5
    house.backend.gate.clear()
    job = await house.insert(num_inference_steps=4)
    running = asyncio.create_task(house.drive(job))

    async def is_told() -> bool:
        return (await house.store.get("alice", job.id)).device_s >= 0.5

    await eventually(is_told)
    house.backend.gate.set()
    ended = await running
    assert ended is not None
    assert ended.device_s == 2.0


async def test_a_backends_own_timeout_is_not_told_as_the_jobs_deadline(quiet: House) -> None:
    quiet.backend.troubles.append(TimeoutError("a socket"))
    job = await quiet.insert()
    with pytest.raises(TimeoutError, match="a socket"):
        await quiet.drive(job)
    assert (await quiet.store.get("alice", job.id)).error is None


async def test_a_progress_write_that_fails_does_not_throw_the_run_away(
    houses: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await houses(sweeps=False, jobs={"progress_write_s": 0.001})
    house.backend.step_s = 0.005
    failures: list[int] = []

    async def away(*_args: Any, **_kwargs: Any) -> None:
        failures.append(1)
        raise Unavailable("the database is away")

    monkeypatch.setattr(house.store, "write_progress", away)
    ended = await driven(house, await house.insert(num_inference_steps=3))
    assert (ended.status, ended.attempts, len(failures)) == ("succeeded", 1, 3)


async def test_a_job_shorter_than_one_period_is_not_held_up_by_progress(
    quiet: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("there was no time for it")

    monkeypatch.setattr(quiet.store, "write_progress", never)
    assert (await driven(quiet, await quiet.insert())).status == "succeeded"


async def test_progress_is_written_while_the_backend_works(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"progress_write_s": 0.001})
    house.backend.step_s = 0.005
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
