"""/api/lora: what the owner's first clients call, in their words; the same jobs as everybody's underneath."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from configs.settings import MongoSettings
from serving.api.legacy_loras import adapter_name
from serving.backends.training import TrainingFailure
from tests.frames import uploaded, video
from tests.serving.api.conftest import assert_error
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, open_house
from tests.serving.outbound.servers import Server, server
from tests.serving.webhooks.receiver import HERE
from tests.uploads import UPLOADS

TRAIN, LIST = "/api/lora/train", "/api/lora/list"
GOOD: dict[str, Any] = {"userId": "anna", "name": "My film!", "triggerWord": "sks person", "steps": 30}


@pytest_asyncio.fixture(scope="module")
async def shared(module_mongo_settings: MongoSettings) -> AsyncIterator[House]:
    house = await open_house(module_mongo_settings, outbound=HERE)
    yield house
    await house.close()


@pytest_asyncio.fixture(scope="module")
async def upload_id(shared: House) -> str:
    return await uploaded(shared.alice, shared.blobs, video())


@asynccontextmanager
async def film(data: bytes | None = None, status: str = "200 OK") -> AsyncIterator[tuple[Server, str]]:
    """A server that has the clip, and its URL there; the name goes through the house's own resolver."""
    body = video() if data is None else data
    head = f"HTTP/1.1 {status}\r\nContent-Type: video/mp4\r\nContent-Length: {len(body)}\r\n\r\n"
    async with server(head.encode() + body) as there:
        yield there, there.url("/films/My%20film.mp4?key=1", host="127.0.0.1")


async def begin(house: House, **body: Any) -> str:
    answer = await house.alice.post(TRAIN, json={**GOOD, **body})
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"jobId", "status"}
    assert answer.json()["status"] in {"pending", "processing", "completed"}
    return str(answer.json()["jobId"])


async def ended(house: House, job_id: str, status: Any = "succeeded") -> Any:
    await house.until(await house.store.get("alice", job_id), status)
    return (await house.alice.get(f"/api/lora/status/{job_id}")).json()


async def test_an_upload_becomes_a_lora_and_is_told_in_their_words(shared: House, upload_id: str) -> None:
    job_id = await begin(shared, uploadId=upload_id, someExtra="ignored")
    assert await ended(shared, job_id) == {"jobId": job_id, "status": "completed", "progress": 100, "error": None}
    told = (await shared.alice.get(f"/api/lora/{job_id}")).json()
    name = adapter_name("My film!", "anna")
    assert shared.blobs.open_url(told.pop("url"))
    assert told.pop("createdAt") > 1_700_000_000
    assert told == {
        "jobId": job_id,
        "status": "completed",
        "progress": 100,
        "error": None,
        "userId": "anna",
        "name": "My film!",
        "triggerWord": "sks person",
        "adapter": f"{name}@1",
    }
    assert (await shared.alice.get(f"/v1/loras/{name}")).status_code == 200
    job = (await shared.alice.get(f"/v1/jobs/{job_id}")).json()
    assert (job["kind"], job["request"]["steps"], job["request"]["trigger"]) == ("lora", 30, "sks person")


async def test_a_video_named_by_its_url_is_fetched_and_becomes_an_upload(shared: House) -> None:
    async with film() as (there, url):
        job_id = await begin(shared, videoUrl=url, name="fetched")
    assert len(there.heads) == 1
    await ended(shared, job_id)
    (source,) = shared.trainer.orders[-1].request.sources
    upload = (await shared.alice.get(f"{UPLOADS}/{source.upload_id}")).json()
    assert (upload["status"], upload["purpose"], upload["filename"]) == ("ready", "video", "My film.mp4")
    assert shared.blobs.get(source.file.key) == video()
    assert (await shared.services.uploads.store.get("alice", source.upload_id)).user == "anna"


async def test_a_call_that_comes_again_with_its_key_fetches_nothing_twice(shared: House) -> None:
    headers = {"Idempotency-Key": "a film once"}
    async with film() as (there, url):
        body = {**GOOD, "videoUrl": url, "name": "once"}
        first = await shared.alice.post(TRAIN, json=body, headers=headers)
        again = await shared.alice.post(TRAIN, json=body, headers=headers)
        assert again.json()["jobId"] == first.json()["jobId"]
        assert len(there.heads) == 1
        other = await shared.alice.post(TRAIN, json={**body, "steps": 31}, headers=headers)
        assert_error(other, 409, code="idempotency_key_reused")
        other = await shared.alice.post(TRAIN, json={**body, "videoUrl": url + "2"}, headers=headers)
        assert_error(other, 409, code="idempotency_key_reused")
    source = (await shared.store.get("alice", first.json()["jobId"])).training.sources[0]
    assert (await shared.alice.get(f"{UPLOADS}/{source.upload_id}")).status_code == 200


@pytest.mark.parametrize(
    ("url", "status", "code"),
    [
        ("http://10.0.0.1/film.mp4", 400, "bad_url"),
        ("file:///etc/passwd", 400, "bad_url"),
        ("no url at all", 400, "bad_url"),
        ("http://127.0.0.1:9/film.mp4", 422, "no_answer"),
    ],
)
async def test_where_clients_may_not_send_us_nothing_is_fetched(
    shared: House, url: str, status: int, code: str
) -> None:
    answer = await shared.alice.post(TRAIN, json={**GOOD, "videoUrl": url})
    assert_error(answer, status, code=code, param="videoUrl")


async def test_what_is_no_video_or_too_large_or_not_there_is_refused_with_the_reason(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE, uploads={"max_video_bytes": 100_000})
    for data, said, status, code in (
        (b"these are my notes" * 100, "200 OK", 422, "not_a_video"),
        (bytes(200_000), "200 OK", 422, "too_large"),
        (b"", "200 OK", 422, "empty_file"),
        (b"no such film", "404 Not Found", 422, "fetch_failed"),
    ):
        async with film(data, said) as (_, url):
            answer = await house.alice.post(TRAIN, json={**GOOD, "videoUrl": url})
        assert_error(answer, status, code=code)
    assert house.trainer.orders == []


async def test_what_was_fetched_for_a_training_that_is_refused_does_not_stay(houses: OpenHouse) -> None:
    house = await houses(outbound=HERE)
    async with film() as (_, url):
        answer = await house.alice.post(TRAIN, json={**GOOD, "videoUrl": url, "steps": 0})
    assert_error(answer, 400, param="steps")
    assert (await house.alice.get(UPLOADS)).json()["data"] == []


async def test_each_bad_field_is_named_as_they_name_it(shared: House, upload_id: str) -> None:
    for body, status, param in (
        ({"userId": ""}, 422, "userId"),
        ({"userId": "a\0b"}, 400, "userId"),
        ({"name": ""}, 422, "name"),
        ({"name": "x" * 201}, 422, "name"),
        ({"steps": 0}, 400, "steps"),
        ({"steps": "many"}, 422, "steps"),
        ({"triggerWord": "x" * 201}, 400, "triggerWord"),
        ({"uploadId": "upl_none"}, 404, "uploadId"),
        ({"uploadId": None}, 422, "videoUrl"),
        ({"videoUrl": "http://films.test/a.mp4"}, 422, "videoUrl"),
    ):
        answer = await shared.alice.post(TRAIN, json={**GOOD, "uploadId": upload_id, **body})
        assert_error(answer, status, param=param)


async def test_the_list_is_one_users_or_all_newest_first(houses: OpenHouse) -> None:
    house = await houses()
    upload_id = await uploaded(house.alice, house.blobs, video())
    mine = [await begin(house, uploadId=upload_id, name=name) for name in ("one", "two")]
    other = await begin(house, uploadId=upload_id, userId="zoe")
    for job_id in (*mine, other):
        await ended(house, job_id)
    listed = (await house.alice.get(f"{LIST}?userId=anna")).json()["loras"]
    assert [entry["jobId"] for entry in listed] == mine[::-1]
    assert {entry["name"] for entry in listed} == {"one", "two"}
    everybody = (await house.alice.get(LIST)).json()["loras"]
    assert [entry["jobId"] for entry in everybody] == [other, *mine[::-1]]
    assert (await house.bob.get(f"{LIST}?userId=anna")).json() == {"loras": []}


async def test_a_failed_and_a_cancelled_training_say_so(houses: OpenHouse) -> None:
    house = await houses()
    upload_id = await uploaded(house.alice, house.blobs, video())
    house.trainer.troubles.append(TrainingFailure("too_few_pictures", "2 pictures are too few.", may_pass=False))
    failed = await ended(house, await begin(house, uploadId=upload_id), "failed")
    assert (failed["status"], failed["error"]) == ("failed", "2 pictures are too few.")
    house.trainer.gate.clear()
    job_id = await begin(house, uploadId=upload_id)
    await house.until(await house.store.get("alice", job_id), "running")
    assert (await house.alice.get(f"/api/lora/status/{job_id}")).json()["status"] == "processing"
    assert (await house.alice.post(f"/v1/jobs/{job_id}/cancel")).status_code == 200
    assert (await ended(house, job_id, "cancelled"))["status"] == "cancelled"


async def test_without_a_key_and_for_others_there_is_nothing(shared: House, upload_id: str) -> None:
    job_id = await begin(shared, uploadId=upload_id, name="private")
    for path in (f"/api/lora/status/{job_id}", f"/api/lora/{job_id}"):
        assert_error(await shared.anonymous.get(path), 401)
        assert_error(await shared.bob.get(path), 404)
        assert_error(await shared.alice.get(path.replace(job_id, "job_none")), 404)
    assert_error(await shared.anonymous.get(LIST), 401)
    assert_error(await shared.anonymous.post(TRAIN, json={**GOOD, "uploadId": upload_id}), 401)
    assert_error(await shared.bob.post(TRAIN, json={**GOOD, "uploadId": upload_id}), 404, param="uploadId")
    await ended(shared, job_id)


async def test_a_job_that_trains_nothing_is_none_of_theirs(houses: OpenHouse) -> None:
    house = await houses()
    job = await house.insert()
    for path in (f"/api/lora/status/{job.id}", f"/api/lora/{job.id}"):
        assert_error(await house.alice.get(path), 404, code="job_not_found")
    await house.until(job, "succeeded")


def test_free_text_becomes_a_name_that_is_valid_and_ones_own() -> None:
    assert adapter_name("My Film!", "anna").startswith("my-film-")
    assert adapter_name("Žluťoučký kůň", "anna").startswith("zlutoucky-kun-")
    assert adapter_name("映画", "anna").startswith("lora-")
    names = [adapter_name(name, user) for name in ("a", "a!", "A", "映画", "電影") for user in ("anna", "zoe")]
    assert len(set(names)) == len(names)
    assert adapter_name("a", "anna") == adapter_name("a", "anna")
    assert len(adapter_name("x" * 200, "anna")) <= 64
