"""POST /v1/images/generations: OpenAI's call with our fields, over a job like every other."""

import asyncio
import base64
import hashlib
import io
import re

import pytest
from PIL import Image

from models.errors import NotFinite
from serving.errors import BackendLost
from tests.serving.api.conftest import GOOD, OPENAI, assert_error
from tests.serving.conftest import OpenHouse
from tests.serving.house import House

FIELDS = {"created", "data", "size", "output_format", "quality", "background", "usage", "job_id", "inference_time_s"}
DATA_FIELDS = {"b64_json", "url", "revised_prompt", "seed", "is_nsfw"}


async def test_without_a_key_nothing_is_made(house: House) -> None:
    assert_error(await house.anonymous.post(OPENAI, json=GOOD), 401, code="missing_api_key")
    assert house.backend.calls == []


async def test_the_job_behind_it_belongs_to_the_caller_alone(house: House) -> None:
    job_id = (await house.alice.post(OPENAI, json=GOOD)).json()["job_id"]
    assert (await house.alice.get(f"/v1/jobs/{job_id}")).status_code == 200
    assert_error(await house.bob.get(f"/v1/jobs/{job_id}"), 404, code="job_not_found")


async def test_url_is_what_is_answered_when_nothing_else_is_asked_for(house: House) -> None:
    answer = await house.alice.post(OPENAI, json=GOOD)
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == FIELDS
    assert set(body["data"][0]) == DATA_FIELDS
    assert body["data"] == [
        {"b64_json": None, "url": body["data"][0]["url"], "revised_prompt": None, "seed": 7, "is_nsfw": False}
    ]
    assert (body["size"], body["output_format"], body["background"], body["quality"], body["usage"]) == (
        "64x64",
        "png",
        "opaque",
        "auto",
        None,
    )
    assert isinstance(body["created"], int)
    assert body["inference_time_s"] > 0
    with Image.open(io.BytesIO(house.blobs.open_url(body["data"][0]["url"]))) as picture:
        assert (picture.format, picture.size) == ("PNG", (64, 64))


async def test_b64_json_holds_the_stored_picture(house: House) -> None:
    body = (await house.alice.post(OPENAI, json={**GOOD, "response_format": "b64_json"})).json()
    content = base64.b64decode(body["data"][0]["b64_json"], validate=True)
    assert body["data"][0]["url"] is None
    job = await house.store.get("alice", body["job_id"])
    assert job.result is not None
    assert hashlib.sha256(content).hexdigest() == job.result.images[0].sha256
    assert content == house.blobs.get(job.result.images[0].key)


async def test_n_pictures_use_seeds_one_after_another_and_equal_single_requests(house: House) -> None:
    two = (await house.alice.post(OPENAI, json={**GOOD, "n": 2, "response_format": "b64_json"})).json()["data"]
    assert [image["seed"] for image in two] == [7, 8]
    assert two[0]["b64_json"] != two[1]["b64_json"]
    one = (await house.alice.post(OPENAI, json={**GOOD, "seed": 8, "response_format": "b64_json"})).json()["data"]
    pixels = [Image.open(io.BytesIO(base64.b64decode(image["b64_json"]))).tobytes() for image in (two[1], one[0])]
    assert pixels[0] == pixels[1]


async def test_a_seed_that_was_drawn_is_told(house: House) -> None:
    wish = {name: value for name, value in GOOD.items() if name != "seed"}
    body = (await house.alice.post(OPENAI, json=wish)).json()
    job = await house.store.get("alice", body["job_id"])
    assert body["data"][0]["seed"] == job.request.seed


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_output_formats(house: House, output_format: str) -> None:
    wish = {**GOOD, "output_format": output_format, "output_compression": 50}
    body = (await house.alice.post(OPENAI, json=wish)).json()
    assert body["output_format"] == output_format
    with Image.open(io.BytesIO(house.blobs.open_url(body["data"][0]["url"]))) as picture:
        assert picture.format == output_format.upper()


async def test_server_timing_tells_engine_and_queue(house: House) -> None:
    answer = await house.alice.post(OPENAI, json=GOOD)
    match = re.fullmatch(r"engine;dur=([\d.]+), queue;dur=([\d.]+)", answer.headers["Server-Timing"])
    assert match
    assert float(match[1]) == pytest.approx(answer.json()["inference_time_s"] * 1000, abs=0.01)


async def test_what_openai_clients_send_along_is_taken_and_unknown_extras_are_ignored(house: House) -> None:
    extras = {
        "user": "u1",
        "quality": "high",
        "moderation": "low",
        "style": "vivid",
        "stream": False,
        "partial_images": 0,
    }
    answer = await house.alice.post(OPENAI, json={**GOOD, **extras})
    assert answer.status_code == 200
    assert answer.json()["quality"] == "high"
    assert (await house.store.get("alice", answer.json()["job_id"])).user == "u1"


async def test_all_of_our_own_fields_reach_the_job(house: House) -> None:
    ours = {
        "model": "emoji-3d",
        "negative_prompt": "blurry",
        "num_inference_steps": 3,
        "guidance_scale": 2,
        "scheduler": "euler",
        "priority": "low",
        "metadata": {"order": "1"},
    }
    job = await house.store.get("alice", (await house.alice.post(OPENAI, json={**GOOD, **ours})).json()["job_id"])
    request = job.request
    assert (request.negative_prompt, request.num_inference_steps, request.guidance_scale) == ("blurry", 3, 2.0)
    assert (request.scheduler, job.priority, job.metadata) == ("euler", "low", {"order": "1"})


async def test_the_jobs_own_failure_is_told_with_its_code_and_id(house: House) -> None:
    house.backend.troubles.append(NotFinite("The picture holds NaN."))
    message = assert_error(await house.alice.post(OPENAI, json=GOOD), 500, code="not_finite")
    assert message.startswith("The picture holds NaN. (job job_")


async def test_a_backend_that_dies_once_costs_time_and_not_the_picture(house: House) -> None:
    house.backend.troubles.append(BackendLost("its process died"))
    answer = await house.alice.post(OPENAI, json=GOOD)
    assert answer.status_code == 200
    assert (await house.store.get("alice", answer.json()["job_id"])).attempts == 2


async def test_a_router_that_is_lost_does_not_cost_the_picture(house: House) -> None:
    house.router.is_lost = True
    assert (await house.alice.post(OPENAI, json=GOOD)).status_code == 200


async def test_a_job_that_takes_too_long_is_503_and_goes_on(houses: OpenHouse) -> None:
    house = await houses(api={"sync_deadline_s": 0.3})
    house.backend.gate.clear()
    answer = await house.alice.post(OPENAI, json=GOOD)
    message = assert_error(answer, 503, code="still_running")
    assert answer.headers["Retry-After"] == "30"
    house.backend.gate.set()
    job = (await house.store.page("alice", status=None, kind=None, limit=1, after=None))[0]
    assert job.id in message
    await house.until(job, "succeeded")


async def test_a_store_that_is_away_at_the_very_end_is_503(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(key: str) -> bytes:
        house.blobs.is_down = True
        return type(house.blobs).get(house.blobs, key)

    monkeypatch.setattr(house.blobs, "get", away)
    answer = await house.alice.post(OPENAI, json={**GOOD, "response_format": "b64_json"})
    assert_error(answer, 503, code="storage_unavailable")


async def test_high_priority_needs_an_admin(house: House) -> None:
    assert_error(await house.alice.post(OPENAI, json={**GOOD, "priority": "high"}), 403, param="priority")
    assert (await house.operator.post(OPENAI, json={**GOOD, "priority": "high"})).status_code == 200


async def test_a_full_queue_is_429_with_retry_after(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"max_queued_per_tenant": 1})
    await house.insert()
    answer = await house.alice.post(OPENAI, json=GOOD)
    assert_error(answer, 429, code="tenant_queue_full")
    assert answer.headers["Retry-After"] == "10"
    assert answer.json()["error"]["type"] == "rate_limit_error"


async def test_a_bug_of_ours_is_500_without_its_insides(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_args: object, **_kwargs: object) -> None:
        raise ZeroDivisionError("a secret detail")

    monkeypatch.setattr(house.store, "insert", broken)
    answer = await house.alice.post(OPENAI, json=GOOD, headers={"X-Request-Id": "req-of-mine"})
    message = assert_error(answer, 500, code="internal_error")
    assert "req-of-mine" in message
    assert "secret" not in answer.text


async def test_sixteen_callers_at_once_each_get_their_own_picture(house: House) -> None:
    wishes = [{**GOOD, "seed": seed, "response_format": "b64_json"} for seed in range(16)]
    bodies = [a.json() for a in await asyncio.gather(*(house.alice.post(OPENAI, json=wish) for wish in wishes))]
    assert [body["data"][0]["seed"] for body in bodies] == list(range(16))
    assert len({body["job_id"] for body in bodies}) == len({body["data"][0]["b64_json"] for body in bodies}) == 16
    assert house.backend.most_running <= 4
