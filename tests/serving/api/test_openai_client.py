"""The official client's own words for streams and edits, against the whole HTTP surface over a socket."""

import asyncio
import base64
from collections.abc import AsyncIterator

import openai
import pytest

from tests.serving.api.conftest import mask_bytes, picture_bytes
from tests.serving.house import House, eventually, on_a_port


@pytest.fixture
async def client(house: House) -> AsyncIterator[openai.AsyncOpenAI]:
    house.backend.step_s = 0.001
    key = house.alice.headers["Authorization"].removeprefix("Bearer ")
    async with on_a_port(house.app) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, timeout=30) as client:
        yield client


async def test_a_generation_streams_partial_images_and_ends_with_the_picture(client: openai.AsyncOpenAI) -> None:
    stream = await client.images.generate(
        prompt="a red apple", size="64x64", stream=True, partial_images=2, extra_body={"num_inference_steps": 6}
    )
    events = [event async for event in stream]
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    for index, event in enumerate(events[:2]):
        assert event.type == "image_generation.partial_image"
        assert event.partial_image_index == index
    completed = events[-1]
    assert completed.type == "image_generation.completed"
    assert completed.usage.total_tokens == completed.usage.input_tokens_details.text_tokens == 0
    assert base64.b64decode(completed.b64_json).startswith(b"\x89PNG")
    assert (completed.size, completed.output_format, completed.background) == ("64x64", "png", "opaque")


async def test_an_edit_with_a_mask_gives_a_picture(client: openai.AsyncOpenAI, house: House) -> None:
    reply = await client.images.edit(
        image=("photo.png", picture_bytes()),
        mask=mask_bytes(),
        prompt="a red apple",
        n=2,
        response_format="b64_json",
        extra_body={"seed": 7, "strength": 0.9, "num_inference_steps": 4, "loras": "[]"},
    )
    assert reply.data is not None
    assert [item.model_dump()["seed"] for item in reply.data] == [7, 8]
    job = await house.store.get("alice", str(reply.model_dump()["job_id"]))
    assert (job.request.strength, job.request.mask is None) == (0.9, False)


async def test_an_edit_streams(client: openai.AsyncOpenAI) -> None:
    stream = await client.images.edit(
        image=[picture_bytes()],
        prompt="a red apple",
        stream=True,
        partial_images=1,
        extra_body={"num_inference_steps": 6},
    )
    assert [event.type async for event in stream] == ["image_edit.partial_image", "image_edit.completed"]


async def test_an_error_on_the_way_is_the_clients_own_error(client: openai.AsyncOpenAI, house: House) -> None:
    house.backend.gate.clear()
    stream = await client.images.generate(prompt="a red apple", size="64x64", stream=True)
    await eventually(lambda: house.backend.calls)
    assert (await house.alice.post(f"/v1/jobs/{house.backend.calls[0]}/cancel")).is_success
    with pytest.raises(openai.APIError) as caught:
        [event async for event in stream]
    assert caught.value.code == "job_cancelled"


async def test_a_cancelled_generation_is_not_sent_again(client: openai.AsyncOpenAI, house: House) -> None:
    house.backend.gate.clear()

    async def cancel_all() -> None:
        await eventually(lambda: house.backend.calls)
        assert (await house.alice.post(f"/v1/jobs/{house.backend.calls[0]}/cancel")).is_success

    cancelling = asyncio.create_task(cancel_all())
    with pytest.raises(openai.ConflictError) as caught:
        await client.with_options(max_retries=3).images.generate(prompt="a red apple", size="64x64")
    await cancelling
    assert caught.value.code == "job_cancelled"
    assert len(house.backend.calls) == 1


async def test_a_bad_picture_is_a_bad_request_error_that_names_the_field(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.images.edit(image=picture_bytes(), mask=picture_bytes(), prompt="a red apple")
    assert caught.value.param == "mask"
