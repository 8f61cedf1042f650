"""POST /v1/jobs/{id}/retry: failed jobs only, the same id, a new life, once per asking."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from models.errors import NotFinite
from serving.errors import Unavailable
from serving.jobs import second_chances
from serving.jobs.job import Job
from tests.serving.api.conftest import EDITS, assert_error, picture_bytes
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, eventually

KEY = {"Idempotency-Key": "again-1"}
NUM_PAIRS = 20


async def announce(house: House) -> None:
    """What the Routers do: the news of jobs go on their way, and then are not owed any more."""
    for job in await house.upkeep.find_owed(limit=100):
        await house.upkeep.clear_owed(job)


@pytest_asyncio.fixture
async def quiet(houses: OpenHouse) -> AsyncIterator[House]:
    """Nobody drives by himself; news are announced at once."""
    house = await houses(sweeps=False)

    async def announce_forever() -> None:
        while True:
            await announce(house)
            await asyncio.sleep(0.01)

    announcing = asyncio.create_task(announce_forever())
    yield house
    announcing.cancel()
    await asyncio.wait({announcing})


async def a_failed_job(house: House, job: Job | None = None) -> Job:
    house.backend.troubles.append(NotFinite("NaN in the picture"))
    failed = await house.drive(job or await house.insert())
    assert failed is not None
    assert failed.status == "failed"
    return failed


async def test_without_a_key_nothing_is_retried(quiet: House) -> None:
    job = await a_failed_job(quiet)
    assert_error(await quiet.anonymous.post(f"/v1/jobs/{job.id}/retry"), 401)
    assert (await quiet.store.get("alice", job.id)).status == "failed"


async def test_another_tenants_job_and_none_at_all_are_not_found(quiet: House) -> None:
    job = await a_failed_job(quiet)
    for client, job_id in ((quiet.bob, job.id), (quiet.operator, job.id), (quiet.alice, "job_none")):
        assert_error(await client.post(f"/v1/jobs/{job_id}/retry"), 404, code="job_not_found")
    assert (await quiet.store.get("alice", job.id)).status == "failed"


async def test_a_failed_job_is_made_after_all_and_keeps_its_history(quiet: House) -> None:
    job = await a_failed_job(quiet)
    before = time.time()
    answer = await quiet.alice.post(f"/v1/jobs/{job.id}/retry")
    body = answer.json()
    assert (answer.status_code, body["id"], body["status"], body["error"]) == (202, job.id, "queued", None)
    assert answer.headers["Location"] == f"/v1/jobs/{job.id}"
    assert body["expires_at"] >= int(before + quiet.services.settings.jobs.max_age_s)
    (attempt,) = body["history"]
    assert (attempt["number"], attempt["code"], attempt["message"]) == (1, "not_finite", "NaN in the picture")
    assert quiet.router.pushed == [job.id]
    made = await quiet.until(job, "succeeded")
    assert (made.attempts, len(made.history)) == (2, 1)


async def test_jobs_that_have_not_failed_are_refused(quiet: House) -> None:
    waiting, cancelled, done = [await quiet.insert() for _ in range(3)]
    await quiet.store.cancel("alice", cancelled.id)
    await quiet.drive(done)
    for job, status in ((waiting, "queued"), (cancelled, "cancelled"), (done, "succeeded")):
        message = assert_error(await quiet.alice.post(f"/v1/jobs/{job.id}/retry"), 409, code="job_not_failed")
        assert status in message


async def test_the_list_of_the_failed_says_why_each_did(quiet: House) -> None:
    job = await a_failed_job(quiet)
    await quiet.insert()
    (listed,) = (await quiet.alice.get("/v1/jobs?status=failed")).json()["data"]
    assert (listed["id"], listed["error"]["code"]) == (job.id, "not_finite")
    assert [attempt["code"] for attempt in listed["history"]] == ["not_finite"]


async def test_an_edit_whose_picture_is_gone_is_refused_and_one_whose_is_there_is_made(quiet: House) -> None:
    async def a_failed_edit() -> str:
        quiet.backend.troubles.append(NotFinite("NaN in the picture"))
        await quiet.alice.post(EDITS, data={"prompt": "x"}, files={"image": picture_bytes()})
        return (await quiet.alice.get("/v1/jobs?status=failed&limit=1")).json()["data"][0]["id"]

    there, gone = await a_failed_edit(), await a_failed_edit()
    quiet.blobs.delete(f"temp/{gone}/image.png")
    assert_error(await quiet.alice.post(f"/v1/jobs/{gone}/retry"), 409, code="job_inputs_gone")
    assert (await quiet.alice.post(f"/v1/jobs/{there}/retry")).status_code == 202
    await quiet.until(await quiet.store.get("alice", there), "succeeded")
    quiet.blobs.is_down = True
    assert_error(await quiet.alice.post(f"/v1/jobs/{gone}/retry"), 503, code="storage_unavailable")


async def test_the_news_of_the_failure_go_out_before_the_new_life_begins(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    job = await a_failed_job(house)
    retrying = asyncio.create_task(house.alice.post(f"/v1/jobs/{job.id}/retry"))
    await asyncio.sleep(0.1)
    assert (await house.store.get("alice", job.id)).status == "failed"
    await announce(house)
    assert (await asyncio.wait_for(retrying, 5)).status_code == 202


async def test_news_that_nobody_announces_do_not_hold_the_caller_for_ever(
    houses: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await houses(sweeps=False)
    job = await a_failed_job(house)
    monkeypatch.setattr(second_chances, "ANNOUNCED_WITHIN_S", 0.1)
    answer = await house.alice.post(f"/v1/jobs/{job.id}/retry")
    assert_error(answer, 503, code="job_announcing")
    assert answer.headers["Retry-After"] == "1"
    assert (await house.store.get("alice", job.id)).lives == 0


async def test_a_full_queue_refuses_a_retry(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"max_queued_per_tenant": 1})
    job = await a_failed_job(house)
    await house.insert()
    assert_error(await house.alice.post(f"/v1/jobs/{job.id}/retry"), 429, code="tenant_queue_full")


async def test_the_same_asking_twice_begins_one_life(quiet: House) -> None:
    job = await a_failed_job(quiet)
    first = await quiet.alice.post(f"/v1/jobs/{job.id}/retry", headers=KEY)
    await quiet.until(job, "succeeded")
    again = await quiet.alice.post(f"/v1/jobs/{job.id}/retry", headers=KEY)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json()["status"] == "succeeded"
    assert (await quiet.store.get("alice", job.id)).lives == 1


async def test_an_asking_is_not_repeated_for_a_later_failure(quiet: House) -> None:
    job = await a_failed_job(quiet)
    quiet.router.is_lost = True
    await quiet.alice.post(f"/v1/jobs/{job.id}/retry", headers=KEY)
    await a_failed_job(quiet, job)
    again = await quiet.alice.post(f"/v1/jobs/{job.id}/retry", headers=KEY)
    assert (again.status_code, again.json()["status"]) == (202, "failed")
    assert (await quiet.store.get("alice", job.id)).lives == 1
    other = await quiet.alice.post(f"/v1/jobs/{job.id}/retry", headers={"Idempotency-Key": "again-2"})
    assert (other.status_code, other.json()["status"]) == (202, "queued")


async def test_after_a_crash_between_key_and_retry_the_next_asking_does_it(
    quiet: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await a_failed_job(quiet)

    async def away(*_args: object, **_kwargs: object) -> Job:
        raise Unavailable("the database went away")

    with monkeypatch.context() as patched:
        patched.setattr(quiet.store, "retry", away)
        assert_error(await quiet.alice.post(f"/v1/jobs/{job.id}/retry", headers=KEY), 503)
    assert (await quiet.alice.post(f"/v1/jobs/{job.id}/retry", headers=KEY)).json()["status"] == "queued"
    assert (await quiet.store.get("alice", job.id)).lives == 1


async def test_the_key_of_one_job_is_refused_for_another(quiet: House) -> None:
    one, other = await a_failed_job(quiet), await a_failed_job(quiet)
    await quiet.alice.post(f"/v1/jobs/{one.id}/retry", headers=KEY)
    answer = await quiet.alice.post(f"/v1/jobs/{other.id}/retry", headers=KEY)
    assert_error(answer, 409, code="idempotency_key_reused")
    assert (await quiet.store.get("alice", other.id)).status == "failed"


async def test_of_two_askings_at_once_one_life_comes(quiet: House) -> None:
    quiet.router.is_lost = True
    jobs = [await a_failed_job(quiet) for _ in range(NUM_PAIRS)]
    await eventually(lambda: _nothing_owed(quiet))
    for number, job in enumerate(jobs):
        headers = KEY | {"Idempotency-Key": f"k{number}"} if number % 2 else {}
        pair = await asyncio.gather(*(quiet.alice.post(f"/v1/jobs/{job.id}/retry", headers=headers) for _ in range(2)))
        assert sorted(answer.status_code for answer in pair) == ([202, 202] if headers else [202, 409])
        assert (await quiet.store.get("alice", job.id)).lives == 1


async def _nothing_owed(house: House) -> bool:
    return not await house.upkeep.find_owed(limit=1)
