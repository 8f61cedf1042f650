"""The official `openai` client against the whole server."""

import base64
import io

import httpx
import openai
import pytest
from PIL import Image

from tests.cluster.conftest import Darkroom


@pytest.fixture
def client(darkroom: Darkroom) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{darkroom.url}/v1", api_key=darkroom.admin_key, max_retries=0, timeout=120)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def test_a_prompt_becomes_a_picture_as_base64(client: openai.OpenAI):
    reply = client.images.generate(model="emoji-3d", prompt="a red apple", size="128x128", response_format="b64_json")
    assert reply.data is not None and reply.data[0].b64_json is not None
    image = opened(base64.b64decode(reply.data[0].b64_json))
    assert (image.format, image.size) == ("PNG", (128, 128))
    assert reply.output_format == "png"


def test_two_pictures_come_as_urls_that_need_no_key(client: openai.OpenAI):
    reply = client.images.generate(
        model="emoji-3d", prompt="a cat", n=2, size="64x96", response_format="url", extra_body={"seed": 41}
    )
    assert reply.data is not None and len(reply.data) == 2
    pictures = [httpx.get(item.url or "").content for item in reply.data]
    assert [opened(data).size for data in pictures] == [(64, 96), (64, 96)]
    assert pictures[0] != pictures[1]
    assert [item.model_dump()["seed"] for item in reply.data] == [41, 42]


@pytest.mark.parametrize(("output_format", "expected"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_other_formats_are_what_they_say(client: openai.OpenAI, output_format: str, expected: str):
    reply = client.images.generate(
        prompt="a tree",
        size="64x64",
        response_format="b64_json",
        output_format=output_format,  # type: ignore[arg-type]
        output_compression=80,
        extra_body={"num_inference_steps": 2},
    )
    assert reply.data is not None and reply.data[0].b64_json is not None
    assert opened(base64.b64decode(reply.data[0].b64_json)).format == expected


def test_models_are_listed_and_retrieved(client: openai.OpenAI):
    models = {model.id: model for model in client.models.list()}
    assert models["emoji-3d"].model_dump()["ready"] is True
    assert client.models.retrieve("emoji-3d").owned_by == models["emoji-3d"].owned_by


def test_a_wrong_key_is_an_authentication_error(darkroom: Darkroom):
    stranger = openai.OpenAI(base_url=f"{darkroom.url}/v1", api_key="dk-wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as caught:
        stranger.images.generate(prompt="a cat")
    assert caught.value.code == "invalid_api_key"


def test_bad_input_is_a_bad_request_error_that_names_the_field(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(model="emoji-3d", prompt="a cat", size="65x64")  # type: ignore[arg-type]
    assert caught.value.param == "size"
    assert "multiples of 8" in caught.value.message


def test_an_unknown_model_is_a_not_found_error_that_lists_what_exists(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(model="dall-e-3", prompt="a cat")
    assert caught.value.code == "model_not_found"
    assert "emoji-3d" in caught.value.message
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("dall-e-3")


def test_concurrent_requests_all_get_their_own_picture(darkroom: Darkroom):
    from_seed: dict[int, bytes] = {}
    body = {"prompt": "a fish", "size": "64x64", "num_inference_steps": 2, "response_format": "b64_json"}
    with darkroom.client() as client:
        for seed in (1, 2, 3):
            data = client.post("/v1/images/generations", json={**body, "seed": seed}).json()["data"]
            from_seed[seed] = base64.b64decode(data[0]["b64_json"])
    assert len(set(from_seed.values())) == 3
