"""POST /v1/images/generations with stream: partial images, the pictures, errors on the way, hanging up."""

import asyncio
import base64
import io
from typing import Any

import pytest
from PIL import Image

from models.errors import AdapterError, NotFinite
from serving.errors import BackendLost
from tests.serving.api.conftest import GOOD, NATIVE, OPENAI, assert_error, events_of, listening
from tests.serving.conftest import OpenHouse
from tests.serving.house import House

STREAM: dict[str, Any] = {**GOOD, "num_inference_steps": 6, "stream": True}
PARTIAL_FIELDS = {"type", "b64_json", "created_at", "size", "quality", "background", "output_format"} | {
    "partial_image_index",
    "image_index",
    "job_id",
}
COMPLETED_FIELDS = (PARTIAL_FIELDS - {"partial_image_index"}) | {"usage", "seed", "is_nsfw"}


def opened(data: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data["b64_json"], validate=True)))


async def test_without_a_key_nothing_is_streamed(house: House) -> None:
    assert_error(await house.anonymous.post(OPENAI, json=STREAM), 401)
    assert house.backend.calls == []


async def test_partial_images_come_before_the_picture(house: House) -> None:
    house.backend.step_s = 0.001
    answer = await house.alice.post(OPENAI, json={**STREAM, "partial_images": 2, "quality": "high"})
    events = events_of(answer)
    assert [name for name, _ in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    for name, data in events:
        assert data["type"] == name
        assert set(data) == (COMPLETED_FIELDS if name.endswith("completed") else PARTIAL_FIELDS)
        assert (data["size"], data["quality"], data["background"], data["output_format"]) == (
            "64x64",
            "high",
            "opaque",
            "png",
        )
        assert opened(data).format == "PNG"
    assert [data["partial_image_index"] for _, data in events[:2]] == [0, 1]
    assert events[-1][1]["usage"]["total_tokens"] == 0
    assert answer.headers["Cache-Control"].startswith("no-cache")
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert answer.headers["X-Request-Id"]


@pytest.mark.parametrize("partial_images", [None, 0])
async def test_without_partial_images_there_is_the_picture_alone(house: House, partial_images: int | None) -> None:
    ((name, _),) = events_of(await house.alice.post(OPENAI, json={**STREAM, "partial_images": partial_images}))
    assert name == "image_generation.completed"


async def test_every_picture_of_several_is_told_apart(house: House) -> None:
    house.backend.step_s = 0.001
    events = events_of(await house.alice.post(OPENAI, json={**STREAM, "n": 3, "partial_images": 1}))
    partial = [data for name, data in events if name == "image_generation.partial_image"]
    completed = [data for name, data in events if name == "image_generation.completed"]
    assert [data["image_index"] for data in partial] == [0, 1, 2]
    assert [(data["image_index"], data["seed"]) for data in completed] == [(0, 7), (1, 8), (2, 9)]


async def test_the_stream_ends_with_the_stored_picture_of_the_job(house: House) -> None:
    ((_, data),) = events_of(await house.alice.post(OPENAI, json=STREAM))
    job = await house.store.get("alice", data["job_id"])
    assert job.result is not None
    assert base64.b64decode(data["b64_json"]) == house.blobs.get(job.result.images[0].key)
    assert_error(await house.bob.get(f"/v1/jobs/{data['job_id']}"), 404)


async def test_partial_images_are_asked_for_with_a_stream_only(house: House) -> None:
    await house.alice.post(OPENAI, json={**GOOD, "partial_images": 3})
    events_of(await house.alice.post(OPENAI, json={**STREAM, "partial_images": 3}))
    jobs = [await house.store.get("alice", job_id) for job_id in house.backend.calls]
    assert [job.request.num_partial_images for job in jobs] == [0, 3]


async def test_bad_input_is_refused_before_the_stream_begins(house: House) -> None:
    assert_error(await house.alice.post(OPENAI, json={**STREAM, "size": "65x64"}), 400, param="size")
    assert_error(await house.alice.post(OPENAI, json={**STREAM, "stream": "yes"}), 400, param="stream")


@pytest.mark.parametrize(
    ("trouble", "code", "type_", "param"),
    [
        (NotFinite("NaN in the picture"), "not_finite", "server_error", None),
        (AdapterError("made for another family"), "bad_adapter", "invalid_request_error", "loras"),
    ],
)
async def test_a_failure_after_the_stream_began_comes_as_an_error_event(
    house: House, trouble: Exception, code: str, type_: str, param: str | None
) -> None:
    house.backend.troubles.append(trouble)
    ((name, data),) = events_of(await house.alice.post(OPENAI, json=STREAM))
    assert (name, data["type"], set(data["error"])) == ("error", "error", {"message", "type", "param", "code"})
    assert (data["error"]["code"], data["error"]["type"], data["error"]["param"]) == (code, type_, param)


async def test_what_an_engine_finds_wrong_with_the_input_is_the_callers_fault_without_a_stream_too(
    house: House,
) -> None:
    house.backend.troubles.append(AdapterError("made for another family"))
    assert_error(await house.alice.post(OPENAI, json=GOOD), 400, code="bad_adapter", param="loras")


async def test_the_picture_comes_even_when_its_router_is_lost(house: House) -> None:
    house.router.is_lost = True
    ((name, _),) = events_of(await house.alice.post(OPENAI, json={**STREAM, "partial_images": 2}))
    assert name == "image_generation.completed"


async def test_a_job_that_was_put_back_is_followed_to_its_picture(house: House) -> None:
    house.backend.troubles.append(BackendLost("its process died"))
    events = events_of(await house.alice.post(OPENAI, json=STREAM))
    assert [name for name, _ in events] == ["image_generation.completed"]
    assert len(house.backend.calls) == 2


async def test_at_its_deadline_the_stream_says_that_the_job_goes_on(houses: OpenHouse) -> None:
    house = await houses(api={"sync_deadline_s": 0.3})
    house.backend.gate.clear()
    ((name, data),) = events_of(await house.alice.post(OPENAI, json=STREAM))
    assert (name, data["error"]["code"]) == ("error", "still_running")
    house.backend.gate.set()
    (job_id,) = house.backend.calls
    await house.until(await house.store.get("alice", job_id), "succeeded")


async def test_ordinary_calls_take_the_way_they_took_before(house: House) -> None:
    await house.alice.post(OPENAI, json=GOOD)
    await house.alice.post(NATIVE, json=GOOD, headers={"Prefer": "wait=5"})
    assert (len(house.router.driven), house.router.followed) == (2, [])


async def test_events_arrive_while_the_picture_is_made_and_keep_alives_when_nothing_is_said(houses: OpenHouse) -> None:
    house = await houses(api={"keep_alive_s": 0.05})
    house.backend.gate.clear()
    async with listening(house, "POST", OPENAI, {**STREAM, "partial_images": 1}) as lines:
        assert await anext(lines) == "event: image_generation.partial_image"
        while not (await anext(lines)).startswith(": keep-alive"):
            pass
        house.backend.gate.set()
        rest = [line async for line in lines]
    assert "event: image_generation.completed" in rest


async def test_many_streams_side_by_side_each_get_their_own(house: House) -> None:
    house.backend.step_s = 0.002
    answers = await asyncio.gather(
        *(house.alice.post(OPENAI, json={**STREAM, "seed": seed, "partial_images": 3}) for seed in range(8))
    )
    for seed, answer in enumerate(answers):
        events = events_of(answer)
        assert len(events) == 4
        assert events[-1][1]["seed"] == seed
