"""A server that is being stopped: takes nothing new, says so, and goes on answering those who ask and wait."""

import asyncio
from typing import Any

import pytest

from tests.serving.api.conftest import EDITS, GOOD, NATIVE, OPENAI, assert_error, picture_bytes
from tests.serving.house import House, eventually

DRAIN = "/v1/admin/drain"
MAKE_JOBS: dict[str, dict[str, Any]] = {
    OPENAI: {"json": GOOD},
    NATIVE: {"json": GOOD},
    EDITS: {"data": {"prompt": "a red apple"}, "files": {"image": picture_bytes()}},
}


async def drain(house: House, within_s: float = 20.0) -> dict[str, Any]:
    answer = await house.operator.post(DRAIN, json={"within_s": within_s})
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    return body


@pytest.mark.parametrize("path", MAKE_JOBS)
async def test_nothing_new_is_taken_and_the_client_told_when_to_come_back(house: House, path: str) -> None:
    await drain(house, within_s=20.0)
    answer = await house.alice.post(path, **MAKE_JOBS[path])
    assert_error(answer, 503, code="draining")
    assert 20 <= int(answer.headers["Retry-After"]) <= 60
    assert (await house.alice.get("/v1/jobs")).json()["data"] == []


async def test_who_waits_gets_the_picture_and_who_asks_an_answer(house: House) -> None:
    house.backend.gate.clear()
    waiting = asyncio.create_task(house.alice.post(OPENAI, json=GOOD))
    await eventually(lambda: house.backend.num_running == 1)
    assert (await drain(house))["running"] == 1
    assert (await house.operator.get(DRAIN)).json()["running"] == 1
    assert [job["status"] for job in (await house.alice.get("/v1/jobs")).json()["data"]] == ["running"]
    house.backend.gate.set()
    assert (await waiting).status_code == 200
    assert (await house.operator.get(DRAIN)).json()["running"] == 0


async def test_who_waits_for_what_the_stop_has_handed_back_is_told_so_and_the_job_is_kept(house: House) -> None:
    house.backend.gate.clear()
    waiting = asyncio.create_task(house.alice.post(OPENAI, json=GOOD))
    await eventually(lambda: house.backend.num_running == 1)
    await drain(house, within_s=0.1)
    await house.dispatcher.drain(deadline_s=0.1)
    assert_error(await waiting, 503, code="still_running")
    (job,) = (await house.alice.get("/v1/jobs")).json()["data"]
    assert (job["status"], job["history"]) == ("queued", [])


async def test_ready_says_that_it_is_being_stopped_and_live_that_it_lives(house: House) -> None:
    assert (await house.anonymous.get("/health/ready")).json()["status"] == "ready"
    await drain(house)
    answer = await house.anonymous.get("/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (503, "draining")
    assert answer.json()["missing"] == ["the server is being stopped"]
    assert (await house.anonymous.get("/health/live")).status_code == 200


async def test_only_the_operator_stops_the_server(house: House) -> None:
    _, secret = await house.services.keys.create("alice", name="admin", role="admin")
    async with house.client(secret) as admin_of_alice:
        for client, status in ((house.anonymous, 401), (house.alice, 403), (admin_of_alice, 403)):
            assert_error(await client.post(DRAIN, json={"within_s": 1}), status)
            assert_error(await client.get(DRAIN), status)
    assert (await house.operator.get(DRAIN)).json() == {
        "object": "drain",
        "is_draining": False,
        "until": None,
        "running": 0,
    }


@pytest.mark.parametrize("body", [{}, {"within_s": -1}, {"within_s": 1e9}, {"within_s": 1, "more": 2}])
async def test_an_order_that_makes_no_sense_changes_nothing(house: House, body: dict[str, Any]) -> None:
    assert_error(await house.operator.post(DRAIN, json=body), 422)
    assert (await house.operator.get(DRAIN)).json()["is_draining"] is False
