"""Prefer: respond-async on OpenAI's image calls: the job instead of its pictures, unless it ends in time."""

import pytest

from models.errors import NotFinite
from tests.serving.api.conftest import EDITS, GOOD, OPENAI, assert_error, events_of, picture_bytes
from tests.serving.house import House

ASYNC = {"Prefer": "respond-async"}


async def test_without_a_key_nothing_is_stored(house: House) -> None:
    assert_error(await house.anonymous.post(OPENAI, json=GOOD, headers=ASYNC), 401)


async def test_it_answers_202_with_the_job_and_where_to_look(house: House) -> None:
    answer = await house.alice.post(OPENAI, json=GOOD, headers=ASYNC)
    job_id = answer.json()["id"]
    assert (answer.status_code, answer.json()["object"]) == (202, "job")
    assert answer.headers["Location"] == f"/v1/jobs/{job_id}"
    assert answer.headers["Preference-Applied"] == "respond-async"
    assert house.router.pushed == [job_id]
    await house.until(await house.store.get("alice", job_id), "succeeded")
    assert_error(await house.bob.get(f"/v1/jobs/{job_id}"), 404)


async def test_an_edit_too(house: House) -> None:
    answer = await house.alice.post(EDITS, data={"prompt": "x"}, files={"image": picture_bytes()}, headers=ASYNC)
    assert answer.status_code == 202
    await house.until(await house.store.get("alice", answer.json()["id"]), "succeeded")


@pytest.mark.parametrize("prefer", ["respond-async, wait=10", "wait=10,respond-async", "Respond-Async; x, WAIT=10"])
async def test_a_job_that_ends_in_time_is_answered_with_its_pictures(house: House, prefer: str) -> None:
    answer = await house.alice.post(OPENAI, json=GOOD, headers={"Prefer": prefer})
    assert answer.status_code == 200
    assert house.blobs.open_url(answer.json()["data"][0]["url"]).startswith(b"\x89PNG")
    assert "Preference-Applied" not in answer.headers


async def test_a_job_that_does_not_is_answered_202_as_it_stands(house: House) -> None:
    house.backend.gate.clear()
    answer = await house.alice.post(OPENAI, json=GOOD, headers={"Prefer": "respond-async, wait=1"})
    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    house.backend.gate.set()
    await house.until(await house.store.get("alice", answer.json()["id"]), "succeeded")


async def test_a_job_that_fails_in_time_is_an_error_as_ever(house: House) -> None:
    house.backend.troubles.append(NotFinite("NaN in the picture"))
    answer = await house.alice.post(OPENAI, json=GOOD, headers={"Prefer": "respond-async, wait=10"})
    assert_error(answer, 500, code="not_finite")


async def test_waiting_too_long_is_refused_before_anything_is_stored(house: House) -> None:
    answer = await house.alice.post(OPENAI, json=GOOD, headers={"Prefer": "respond-async, wait=61"})
    assert "at most 60 seconds" in assert_error(answer, 400, param="Prefer")
    assert (await house.alice.get("/v1/jobs")).json()["data"] == []


@pytest.mark.parametrize("prefer", ["", "wait=1", "respond-asynchronously", "xrespond-async", "handling=strict"])
async def test_other_preferences_change_nothing(house: House, prefer: str) -> None:
    answer = await house.alice.post(OPENAI, json=GOOD, headers={"Prefer": prefer})
    assert (answer.status_code, len(answer.json()["data"])) == (200, 1)


async def test_a_stream_stays_a_stream(house: House) -> None:
    answer = await house.alice.post(OPENAI, json={**GOOD, "stream": True}, headers=ASYNC)
    assert [name for name, _ in events_of(answer)] == ["image_generation.completed"]
    assert "Preference-Applied" not in answer.headers
