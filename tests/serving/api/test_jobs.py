"""GET /v1/jobs and /v1/jobs/{id}: one's own jobs, page by page."""

import asyncio

import pytest

from models.errors import NotFinite
from tests.serving.api.conftest import GOOD, NATIVE, assert_error
from tests.serving.conftest import OpenHouse
from tests.serving.house import House


async def test_without_a_key_there_is_nothing_to_see(house: House) -> None:
    job = await house.insert()
    assert_error(await house.anonymous.get("/v1/jobs"), 401)
    assert_error(await house.anonymous.get(f"/v1/jobs/{job.id}"), 401)


async def test_another_tenants_jobs_are_not_found_not_listed_and_no_place_to_go_on_from(house: House) -> None:
    job = await house.insert(tenant="alice")
    assert_error(await house.bob.get(f"/v1/jobs/{job.id}"), 404, code="job_not_found")
    assert (await house.bob.get("/v1/jobs")).json()["data"] == []
    assert_error(await house.bob.get("/v1/jobs", params={"after": job.id}), 404, code="job_not_found")
    assert_error(await house.operator.get(f"/v1/jobs/{job.id}"), 404)


async def test_a_job_can_be_polled_to_its_end(house: House) -> None:
    job_id = (await house.alice.post(NATIVE, json=GOOD)).json()["id"]
    await house.until(await house.store.get("alice", job_id), "succeeded")
    body = (await house.alice.get(f"/v1/jobs/{job_id}")).json()
    assert (body["id"], body["status"], body["progress"]) == (job_id, "succeeded", 100)
    (image,) = body["result"]["images"]
    assert house.blobs.open_url(image["url"]).startswith(b"\x89PNG")
    assert body["result"]["queue_time_s"] >= 0


async def test_a_failed_job_tells_why(house: House) -> None:
    house.backend.troubles.append(NotFinite("NaN in the picture"))
    job = await house.insert()
    await house.until(job, "failed")
    body = (await house.alice.get(f"/v1/jobs/{job.id}")).json()
    assert (body["error"], body["result"]) == ({"code": "not_finite", "message": "NaN in the picture"}, None)


@pytest.mark.parametrize("job_id", ["job_none", "x" * 3_000, "%00", "%F0%9F%8D%8E", "..%2F..", "{job_id}", "$where"])
async def test_what_is_no_job_is_not_found(shared: House, job_id: str) -> None:
    answer = await shared.alice.get(f"/v1/jobs/{job_id}")
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_the_list_goes_newest_first_page_by_page_over_all(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    ids = []
    for _ in range(5):
        ids.append((await house.insert()).id)
        await asyncio.sleep(0.002)
    seen: list[str] = []
    params: dict[str, str | int] = {"limit": 2}
    for expected_more in (True, True, False):
        page = (await house.alice.get("/v1/jobs", params=params)).json()
        names = [job["id"] for job in page["data"]]
        assert (page["object"], page["first_id"], page["last_id"]) == ("list", names[0], names[-1])
        assert page["has_more"] is expected_more
        seen += names
        params["after"] = names[-1]
    assert seen == ids[::-1]


async def test_an_empty_list_says_so(house: House) -> None:
    assert (await house.alice.get("/v1/jobs")).json() == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


async def test_the_list_can_be_filtered(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    waiting, done = await house.insert(), await house.insert()
    await house.drive(done)

    async def ids(**params: str) -> list[str]:
        return [job["id"] for job in (await house.alice.get("/v1/jobs", params=params)).json()["data"]]

    assert await ids(status="queued") == [waiting.id]
    assert await ids(status="succeeded", kind="image") == [done.id]
    assert await ids(kind="video") == []


async def test_waiting_jobs_tell_their_place(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    first = await house.insert()
    await asyncio.sleep(0.002)
    second = await house.insert()
    assert (await house.alice.get(f"/v1/jobs/{first.id}")).json()["queue_position"] == 0
    assert (await house.alice.get(f"/v1/jobs/{second.id}")).json()["queue_position"] == 1


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"limit": "1e1"}, "limit"),
        ({"status": "done"}, "status"),
        ({"kind": "picture"}, "kind"),
        ({"after": "x" * 101}, "after"),
    ],
)
async def test_filters_outside_their_limits_are_refused(shared: House, params: dict[str, str], param: str) -> None:
    assert_error(await shared.alice.get("/v1/jobs", params=params), 422, param=param)


async def test_a_page_of_a_hundred_is_allowed(shared: House) -> None:
    assert (await shared.alice.get("/v1/jobs", params={"limit": 100})).status_code == 200
