"""Idempotency-Key on the routes that make jobs: one job, whenever the request is repeated and wherever we died."""

import asyncio
from typing import Any

import httpx
import pytest

from models.errors import NotFinite
from serving.errors import Unavailable
from serving.jobs.idempotency import fingerprint_of
from serving.jobs.job import Job, new_job_id
from serving.jobs.wish import ImageWish
from tests.models.lora_bytes import lora_bytes
from tests.serving.api.conftest import EDITS, GOOD, NATIVE, OPENAI, assert_error, events_of, picture_bytes
from tests.serving.conftest import OpenHouse
from tests.serving.house import House

KEY = {"Idempotency-Key": "order-1"}
NUM_PAIRS = 30


async def jobs_of(house: House, tenant: str = "alice") -> list[Job]:
    return await house.store.page(tenant, status=None, kind=None, limit=200, after=None)


def is_replayed(answer: httpx.Response) -> bool:
    return answer.headers.get("Idempotent-Replayed") == "true"


async def edit(house: House, key: dict[str, str] = KEY, image: bytes | None = None, **fields: str) -> httpx.Response:
    data = {"prompt": "a red apple", "num_inference_steps": "2"} | fields
    return await house.alice.post(EDITS, data=data, files={"image": image or picture_bytes()}, headers=key)


@pytest.mark.parametrize("route", [OPENAI, NATIVE, EDITS])
async def test_without_an_api_key_nothing_is_reserved(house: House, raw: Any, route: str) -> None:
    assert_error(await house.anonymous.post(route, json=GOOD, headers=KEY), 401)
    assert await raw["idempotency_keys"].count_documents({}) == 0


async def test_the_same_request_again_gives_the_first_job(house: House) -> None:
    first, again = [await house.alice.post(NATIVE, json={"prompt": "a red apple"}, headers=KEY) for _ in range(2)]
    assert (first.status_code, is_replayed(first), is_replayed(again)) == (202, False, True)
    assert first.json()["id"] == again.json()["id"]
    assert first.json()["request"]["seed"] == again.json()["request"]["seed"], "the seed was drawn once"
    assert len(await jobs_of(house)) == 1


async def test_a_synchronous_call_again_gives_the_same_pictures(house: House) -> None:
    first, again = [await house.alice.post(OPENAI, json=GOOD, headers=KEY) for _ in range(2)]
    assert is_replayed(again)
    assert again.json()["job_id"] == first.json()["job_id"]
    assert len(house.backend.calls) == 1


async def test_how_the_pictures_come_is_no_part_of_what_is_wanted(house: House) -> None:
    first = await house.alice.post(OPENAI, json=GOOD, headers=KEY)
    streamed = await house.alice.post(OPENAI, json={**GOOD, "stream": True}, headers=KEY)
    ((_, data),) = events_of(streamed)
    assert (data["job_id"], is_replayed(streamed)) == (first.json()["job_id"], True)


async def test_an_edit_again_gives_the_first_job_and_its_files_are_under_its_id(house: House) -> None:
    first, again = await edit(house), await edit(house)
    assert (is_replayed(first), is_replayed(again)) == (False, True)
    (job,) = await jobs_of(house)
    assert first.json()["job_id"] == again.json()["job_id"] == job.id
    assert [key for key in house.blobs.keys if key.startswith("temp/")] == [f"temp/{job.id}/image.png"]


async def test_a_failed_job_is_told_again_as_it_is(house: House) -> None:
    house.backend.troubles.append(NotFinite("NaN in the picture"))
    first, again = [await house.alice.post(OPENAI, json=GOOD, headers=KEY) for _ in range(2)]
    for answer in (first, again):
        assert_error(answer, 500, code="not_finite")
    assert is_replayed(again)
    assert len(await jobs_of(house)) == 1


@pytest.mark.parametrize("change", [{"seed": 8}, {"prompt": "another"}, {"metadata": {"a": "1"}}, {"priority": "low"}])
async def test_another_body_with_the_same_key_is_refused(house: House, change: dict[str, Any]) -> None:
    assert (await house.alice.post(NATIVE, json=GOOD, headers=KEY)).status_code == 202
    answer = await house.alice.post(NATIVE, json=GOOD | change, headers=KEY)
    assert_error(answer, 409, code="idempotency_key_reused")
    assert answer.headers["X-Should-Retry"] == "false"
    assert len(await jobs_of(house)) == 1


async def test_another_route_with_the_same_key_is_refused(house: House) -> None:
    await house.alice.post(NATIVE, json=GOOD, headers=KEY)
    assert_error(await house.alice.post(OPENAI, json=GOOD, headers=KEY), 409, code="idempotency_key_reused")


async def test_another_picture_with_the_same_key_is_refused(house: House) -> None:
    await edit(house)
    assert_error(await edit(house, image=picture_bytes(color="blue")), 409, code="idempotency_key_reused")


async def test_another_tenants_key_is_another_key(house: House) -> None:
    mine = await house.alice.post(NATIVE, json=GOOD, headers=KEY)
    theirs = await house.bob.post(NATIVE, json=GOOD | {"seed": 8}, headers=KEY)
    assert (theirs.status_code, is_replayed(theirs)) == (202, False)
    assert_error(await house.bob.get(f"/v1/jobs/{mine.json()['id']}"), 404)


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "ä".encode(), b"\x7f"])
@pytest.mark.parametrize("route", [OPENAI, NATIVE])
async def test_what_is_no_key_is_refused(house: House, route: str, key: str | bytes) -> None:
    answer = await house.alice.post(route, json=GOOD, headers={"Idempotency-Key": key})
    assert_error(answer, 400, param="Idempotency-Key")
    assert await jobs_of(house) == []


@pytest.mark.parametrize("key", ["x", "x" * 255, "a b/c:{}$.~"])
async def test_every_printable_key_is_taken(house: House, key: str) -> None:
    answers = [await house.alice.post(NATIVE, json=GOOD, headers={"Idempotency-Key": key}) for _ in range(2)]
    assert answers[0].json()["id"] == answers[1].json()["id"]


async def test_of_two_requests_at_once_one_makes_the_job_and_both_get_it(houses: OpenHouse) -> None:
    """Through two processes' worth of services over one database, many times."""
    one, other = await houses(sweeps=False), await houses(sweeps=False)
    key = other.bob.headers["Authorization"]
    for number in range(NUM_PAIRS):
        headers = {"Idempotency-Key": f"k{number}", "Authorization": key}
        bodies = await asyncio.gather(
            *(house.anonymous.post(NATIVE, json={"prompt": "x"}, headers=headers) for house in (one, other))
        )
        first, second = (answer.json() for answer in bodies)
        assert first["id"] == second["id"]
        assert first["request"]["seed"] == second["request"]["seed"]
        assert sorted(map(is_replayed, bodies)) == [False, True]
    assert len(await jobs_of(one, "bob")) == NUM_PAIRS


async def test_of_two_edits_at_once_the_job_finds_its_files(house: House) -> None:
    for number in range(NUM_PAIRS):
        first, second = await asyncio.gather(*(edit(house, {"Idempotency-Key": f"k{number}"}) for _ in range(2)))
        assert first.json()["job_id"] == second.json()["job_id"]
        assert house.blobs.exists(f"temp/{first.json()['job_id']}/image.png")
    assert len(await jobs_of(house)) == NUM_PAIRS


async def test_after_a_crash_between_key_and_job_the_next_request_makes_the_job_under_the_reserved_id(
    house: House,
) -> None:
    reserved = new_job_id()
    wish = ImageWish("a red apple", size="64x64", num_inference_steps=1, seed=7)
    await house.services.idempotency.reserve(
        "alice", "order-1", fingerprint=fingerprint_of(NATIVE, wish), new_id=reserved
    )
    answers = await asyncio.gather(*(house.alice.post(NATIVE, json=GOOD, headers=KEY) for _ in range(3)))
    assert {answer.json()["id"] for answer in answers} == {reserved}
    (job,) = await jobs_of(house)
    await house.until(job, "succeeded")


@pytest.mark.parametrize("is_stored", [False, True], ids=["before the job was stored", "after"])
async def test_a_request_that_broke_off_can_be_repeated(
    house: House, monkeypatch: pytest.MonkeyPatch, is_stored: bool
) -> None:
    """The client learns nothing of whether its job was stored; the key makes the difference none of its business."""
    insert = house.store.insert

    async def broken(job: Job) -> None:
        if is_stored:
            await insert(job)
        raise Unavailable("the database went away")

    with monkeypatch.context() as patched:
        patched.setattr(house.store, "insert", broken)
        assert_error(await edit(house), 503)
    assert (await edit(house)).status_code == 200
    (job,) = await jobs_of(house)
    assert job.status == "succeeded"
    assert house.blobs.exists(f"temp/{job.id}/image.png")


async def test_a_refused_request_leaves_its_key_usable(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"max_queued_per_tenant": 1})
    waiting = await house.insert()
    assert_error(await house.alice.post(NATIVE, json=GOOD | {"n": 0}, headers=KEY), 400)
    assert_error(await house.alice.post(NATIVE, json=GOOD | {"priority": "high"}, headers=KEY), 403)
    assert_error(await house.alice.post(NATIVE, json=GOOD | {"seed": 1}, headers=KEY), 429)
    await house.drive(waiting)
    answer = await house.alice.post(NATIVE, json=GOOD, headers=KEY)
    assert (answer.status_code, is_replayed(answer)) == (202, False)


async def test_a_job_that_was_accepted_is_told_again_though_the_queue_is_full(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"max_queued_per_tenant": 1})
    house.router.is_lost = True
    first, again = [await house.alice.post(NATIVE, json=GOOD, headers=KEY) for _ in range(2)]
    assert (first.status_code, again.status_code, is_replayed(again)) == (202, 202, True)
    assert_error(await house.alice.post(NATIVE, json=GOOD), 429)


async def test_keys_survive_the_process(houses: OpenHouse) -> None:
    before = await houses(sweeps=False)
    first = await before.alice.post(NATIVE, json=GOOD, headers=KEY)
    after = await houses(sweeps=False)
    again = await after.alice.post(NATIVE, json=GOOD, headers=KEY)
    assert (again.json()["id"], is_replayed(again)) == (first.json()["id"], True)


async def test_after_its_time_a_key_is_free_again(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, api={"idempotency_keep_s": 0.05})
    first = await house.alice.post(NATIVE, json=GOOD, headers=KEY)
    await asyncio.sleep(0.06)
    other = await house.alice.post(NATIVE, json=GOOD | {"seed": 8}, headers=KEY)
    assert (other.status_code, is_replayed(other)) == (202, False)
    assert other.json()["id"] != first.json()["id"]


async def test_an_import_of_an_adapter_takes_a_key_too(house: House) -> None:
    async def post(name: str, seed: int = 0) -> httpx.Response:
        files = {"file": ("x.safetensors", lora_bytes(seed=seed))}
        return await house.alice.post("/v1/loras/import", files=files, data={"name": name}, headers=KEY)

    refused, first, again = await post("no such name!"), await post("style"), await post("style")
    assert (refused.status_code, first.status_code, again.status_code) == (400, 201, 200)
    assert first.json() == again.json()
    assert (is_replayed(first), is_replayed(again)) == (False, True)
    assert_error(await post("style", seed=1), 409, code="idempotency_key_reused")
    assert_error(await post("other"), 409, code="idempotency_key_reused")
