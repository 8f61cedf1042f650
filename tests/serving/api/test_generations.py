"""POST /v1/generate/image: 202 and a job, or 200 when it ended within `Prefer: wait=N`."""

import time
from typing import Any

import pytest

from serving.errors import BackendLost
from tests.serving.api.conftest import EDITS, GOOD, NATIVE, assert_error, picture_bytes
from tests.serving.house import House, eventually

JOB_FIELDS = {
    "id", "object", "kind", "status", "progress", "step", "steps", "created_at", "started_at", "finished_at",
    "attempts", "priority", "model", "backend", "request", "result", "error", "metadata", "queue_position",
    "eta_s", "expires_at", "history", "webhook_url", "stage", "loss",
}  # fmt: skip


async def test_without_a_key_nothing_is_stored(house: House) -> None:
    assert_error(await house.anonymous.post(NATIVE, json=GOOD), 401, code="missing_api_key")
    assert (await house.alice.get("/v1/jobs")).json()["data"] == []


async def test_another_tenant_does_not_see_the_job(house: House) -> None:
    job_id = (await house.alice.post(NATIVE, json=GOOD)).json()["id"]
    assert_error(await house.bob.get(f"/v1/jobs/{job_id}"), 404)


async def test_it_answers_202_with_the_job_and_where_to_look(house: House) -> None:
    house.backend.gate.clear()
    answer = await house.alice.post(NATIVE, json={**GOOD, "metadata": {"order": "1"}})
    body = answer.json()
    assert answer.status_code == 202
    assert set(body) == JOB_FIELDS
    assert (body["object"], body["kind"], body["metadata"], body["result"]) == ("job", "image", {"order": "1"}, None)
    assert (body["status"], body["attempts"], body["queue_position"]) == ("queued", 0, 0)
    assert answer.headers["Location"] == f"/v1/jobs/{body['id']}"
    assert answer.headers["Retry-After"] == "1"
    assert house.router.pushed == [body["id"]]
    house.backend.gate.set()
    job = await house.store.get("alice", body["id"])
    await house.until(job, "succeeded")


async def test_the_request_is_told_with_every_choice_filled_in(house: House) -> None:
    body = (await house.alice.post(NATIVE, json=GOOD)).json()
    assert body["request"] == {
        "model": "emoji-3d",
        "prompt": "a red apple",
        "negative_prompt": "",
        "n": 1,
        "size": "64x64",
        "num_inference_steps": 1,
        "guidance_scale": house.services.catalog["emoji-3d"].defaults.guidance_scale,
        "seed": 7,
        "scheduler": None,
        "loras": [],
        "strength": None,
        "output_format": "png",
        "output_compression": 100,
        "moderation": "auto",
    }


@pytest.mark.parametrize("prefer", ["wait=10", "respond-async, wait=10", "wait=10; foo", "handling=strict,wait=10"])
async def test_prefer_wait_answers_200_with_the_result(house: House, prefer: str) -> None:
    answer = await house.alice.post(NATIVE, json={**GOOD, "n": 2}, headers={"Prefer": prefer})
    body = answer.json()
    assert answer.status_code == 200
    assert (body["status"], body["progress"], body["error"], body["queue_position"]) == ("succeeded", 100, None, None)
    assert body["started_at"] is not None
    assert body["finished_at"] >= body["created_at"]
    assert body["backend"] == "engine:emoji-3d"
    assert "Location" not in answer.headers
    images = body["result"]["images"]
    assert [image["seed"] for image in images] == [7, 8]
    assert set(images[0]) == {"url", "seed", "width", "height", "content_type", "bytes", "sha256", "is_nsfw"}
    assert len(house.blobs.open_url(images[0]["url"])) == images[0]["bytes"]


async def test_prefer_wait_answers_202_when_the_time_is_up_and_the_job_goes_on(house: House) -> None:
    house.backend.gate.clear()
    answer = await house.alice.post(NATIVE, json=GOOD, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    house.backend.gate.set()
    await house.until(await house.store.get("alice", answer.json()["id"]), "succeeded")


async def test_prefer_wait_tells_a_failed_job_too(house: House) -> None:
    house.backend.troubles.extend(BackendLost("its process died") for _ in range(9))
    answer = await house.alice.post(NATIVE, json=GOOD, headers={"Prefer": "wait=10"})
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["error"]["code"]) == ("failed", "workers_lost")
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("prefer", ["", "respond-async", "wait=", "wait=abc", "wait=-1", "await=5", "wait=0"])
async def test_other_preferences_are_none_of_ours(house: House, prefer: str) -> None:
    assert (await house.alice.post(NATIVE, json=GOOD, headers={"Prefer": prefer})).status_code == 202


@pytest.mark.parametrize("seconds", [61, 999_999_999])
async def test_waiting_too_long_is_refused_before_anything_is_stored(house: House, seconds: int) -> None:
    answer = await house.alice.post(NATIVE, json=GOOD, headers={"Prefer": f"wait={seconds}"})
    assert "at most 60 seconds" in assert_error(answer, 400, param="Prefer")
    assert (await house.alice.get("/v1/jobs")).json()["data"] == []


@pytest.mark.parametrize("field", ["response_format", "user", "stream", "promt", "steps"])
async def test_a_field_that_does_not_exist_is_refused_by_name(house: House, field: str) -> None:
    assert_error(await house.alice.post(NATIVE, json={**GOOD, field: "x"}), 422, param=field)


async def test_a_message_that_is_lost_is_made_good_by_the_sweep(house: House) -> None:
    house.router.is_lost = True
    body = (await house.alice.post(NATIVE, json=GOOD)).json()
    await house.until(await house.store.get("alice", body["id"]), "succeeded")
    await eventually(lambda: house.router.driven == [body["id"]])


async def test_deadline_webhook_and_outlook_are_told(house: House, raw: Any) -> None:
    pace = {"model": "emoji-3d", "jobs_per_s": 2.0, "mean_s": 3.0, "at": time.time()}
    await raw["paces"].insert_one({"_id": "router-9/emoji-3d", **pace})
    house.backend.gate.clear()
    wish = {**GOOD, "expires_in_s": 60, "webhook_url": "https://example.org/hook"}
    body = (await house.alice.post(NATIVE, json=wish)).json()
    assert body["expires_at"] - body["created_at"] in {60, 61}
    assert (body["webhook_url"], body["history"], body["queue_position"]) == ("https://example.org/hook", [], 0)
    assert body["eta_s"] == 3.0
    house.backend.gate.set()
    await house.until(await house.store.get("alice", body["id"]), "succeeded")
    ended = (await house.alice.get(f"/v1/jobs/{body['id']}")).json()
    assert (ended["eta_s"], ended["queue_position"]) == (None, None)


async def test_the_form_of_an_edit_takes_deadline_and_webhook_too(house: House) -> None:
    fields = {"prompt": "x", "expires_in_s": "60", "webhook_url": "https://example.org/hook"}
    answer = await house.alice.post(EDITS, data=fields, files={"image": picture_bytes()})
    job = await house.store.get("alice", answer.json()["job_id"])
    assert (job.expires_at - job.created_at, job.webhook_url) == (60.0, "https://example.org/hook")
