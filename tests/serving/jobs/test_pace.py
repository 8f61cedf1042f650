"""The pace: what jobs are expected to take, learnt from those that were driven, and told to those who estimate."""

import time
from typing import Any

import pytest

from serving.jobs.pace import FIRST_GUESS_S, SMOOTHING, OldPaces, Pace
from serving.mongo import Mongo
from tests.serving.house import MODELS, a_job

MODEL = MODELS[0]


@pytest.fixture
def pace(mongo: Mongo) -> Pace:
    return Pace(mongo, MODEL, owner="router-1")


async def told(raw: Any) -> list[dict[str, Any]]:
    return await raw["paces"].find({}).sort([("_id", 1)]).to_list(10)


async def test_before_any_job_has_ended_the_guess_grows_with_pixels_steps_and_pictures(pace: Pace) -> None:
    one = a_job(width_px=64, height_px=64, num_inference_steps=2)
    assert pace.expected_s(one) == pytest.approx(FIRST_GUESS_S * 64 * 64 * 2)
    assert pace.expected_s(a_job(width_px=128, num_inference_steps=6, num_images=3)) == pytest.approx(
        18 * pace.expected_s(one)
    )


async def test_the_first_measured_job_replaces_the_guess_and_later_ones_move_it_slowly(pace: Pace) -> None:
    job = a_job()
    pace.observe(job, run_s=9.0, device_s=4.0, num_beside=1)
    assert pace.expected_s(job) == pytest.approx(4.0)
    pace.observe(job, run_s=9.0, device_s=14.0, num_beside=1)
    assert pace.expected_s(job) == pytest.approx(4.0 + SMOOTHING * 10.0)


async def test_a_job_without_device_seconds_teaches_nothing_of_the_device(pace: Pace) -> None:
    job = a_job()
    pace.observe(job, run_s=1.0, device_s=4.0, num_beside=1)
    pace.observe(job, run_s=1.0, device_s=0.0, num_beside=1)
    assert pace.expected_s(job) == pytest.approx(4.0)


async def test_what_is_told_is_jobs_at_a_time_over_the_time_of_one(pace: Pace, raw: Any) -> None:
    for _ in range(50):
        pace.observe(a_job(), run_s=2.0, device_s=1.0, num_beside=4)
    before = time.time()
    await pace.tell()
    (document,) = await told(raw)
    assert (document["_id"], document["model"]) == (f"router-1/{MODEL}", MODEL)
    assert document["jobs_per_s"] == pytest.approx(2.0)
    assert document["mean_s"] == pytest.approx(2.0)
    assert before <= document["at"] <= time.time()


async def test_nothing_is_told_before_a_job_has_ended_nor_twice(pace: Pace, raw: Any) -> None:
    await pace.tell()
    assert await told(raw) == []
    pace.observe(a_job(), run_s=1.0, device_s=1.0, num_beside=1)
    await pace.tell()
    await raw["paces"].delete_many({})
    await pace.tell()
    assert await told(raw) == []


async def test_later_news_take_the_place_of_older_ones_and_each_router_tells_its_own(
    pace: Pace, mongo: Mongo, raw: Any
) -> None:
    other = Pace(mongo, MODEL, owner="router-2")
    for one, run_s in ((pace, 1.0), (other, 3.0), (pace, 2.0)):
        one.observe(a_job(), run_s=run_s, device_s=1.0, num_beside=1)
        await one.tell()
    documents = await told(raw)
    assert [document["_id"] for document in documents] == [f"router-1/{MODEL}", f"router-2/{MODEL}"]
    assert [document["mean_s"] for document in documents] == [pytest.approx(1.0 + SMOOTHING), pytest.approx(3.0)]


async def test_jobs_that_took_no_time_at_all_give_no_infinite_rate(pace: Pace, raw: Any) -> None:
    pace.observe(a_job(), run_s=0.0, device_s=0.0, num_beside=1)
    await pace.tell()
    (document,) = await told(raw)
    assert document["jobs_per_s"] <= 1_000


async def test_what_routers_told_that_are_long_gone_is_forgotten(mongo: Mongo, raw: Any) -> None:
    now = time.time()
    told = {"model": "sd", "jobs_per_s": 1.0, "mean_s": 1.0}
    await raw["paces"].insert_many([{"_id": str(days), **told, "at": now - days * 86_400} for days in (0, 0.9, 1.1, 9)])
    assert await OldPaces(mongo).delete_old(limit=1) == 1
    assert await OldPaces(mongo).delete_old(limit=9) == 1
    assert sorted([document["_id"] async for document in raw["paces"].find({})]) == ["0", "0.9"]
