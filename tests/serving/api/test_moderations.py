"""POST /v1/moderations: texts, pictures, both together; what may be named as a picture, and what is refused how."""

import base64
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from pipelines.request import StoredFile
from serving.api.named_pictures import NamedPictures
from serving.errors import BadInput, TooLarge
from serving.uploads.content import Purpose
from serving.uploads.store import UploadStore
from serving.uploads.upload import Content, Offer, Upload, new_upload, new_upload_id
from tests.moderators import MARKER
from tests.serving.api.conftest import assert_error, picture_bytes
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, on_a_port
from tests.serving.outbound.servers import outbound, server
from tests.serving.outbound.test_client import certificates

ROUTE = "/v1/moderations"
MARKED, PLAIN = picture_bytes(color=MARKER), picture_bytes(color="green")
Part = dict[str, Any]


def data_uri(data: bytes, content_type: str = "image/png") -> str:
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


def image(url: str) -> Part:
    return {"type": "image_url", "image_url": {"url": url}}


def text(words: str) -> Part:
    return {"type": "text", "text": words}


async def ask(house: House, input: Any, **more: Any) -> httpx.Response:
    return await house.alice.post(ROUTE, json={"input": input, **more})


async def results_of(house: House, input: Any) -> list[dict[str, Any]]:
    answer = await ask(house, input)
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


async def test_without_a_key_nothing_is_told(shared: House) -> None:
    assert_error(await shared.anonymous.post(ROUTE, json={"input": "nsfw"}), 401)


async def test_a_text_has_one_result_with_all_that_openais_have(shared: House) -> None:
    answer = await ask(shared, "a red apple")
    body = answer.json()
    assert body.pop("id").startswith("modr-")
    assert body == {
        "model": "darkroom-stand-in",
        "results": [
            {
                "flagged": False,
                "categories": {"sexual": False, "sexual/minors": False},
                "category_scores": {"sexual": 0.0, "sexual/minors": 0.0},
                "category_applied_input_types": {"sexual": ["text"], "sexual/minors": ["text"]},
            }
        ],
    }


async def test_each_of_several_texts_has_a_result(shared: House) -> None:
    results = await results_of(shared, ["a red apple", "nsfw", "a naked child", ""])
    assert [result["flagged"] for result in results] == [False, True, True, False]
    assert [result["categories"]["sexual/minors"] for result in results] == [False, False, True, False]


async def test_parts_have_one_result_together(shared: House) -> None:
    plain = [text("a red apple"), image(data_uri(PLAIN))]
    (result,) = await results_of(shared, plain)
    assert not result["flagged"]
    assert result["category_applied_input_types"] == {"sexual": ["text", "image"], "sexual/minors": ["text"]}
    for flagged in ([*plain, text("nsfw")], [*plain, image(data_uri(MARKED))]):
        (result,) = await results_of(shared, flagged)
        assert result["flagged"]
        assert result["category_scores"]["sexual"] >= 0.9
    # What is said in one part may be about what is said in another.
    (result,) = await results_of(shared, [text("a child"), text("naked")])
    assert result["categories"]["sexual/minors"]


async def test_a_picture_alone_is_not_judged_as_text(shared: House) -> None:
    (result,) = await results_of(shared, [image(data_uri(MARKED, "image/x-anything"))])
    assert result["category_scores"] == {"sexual": 1.0, "sexual/minors": 0.0}
    assert result["category_applied_input_types"] == {"sexual": ["image"], "sexual/minors": []}


async def test_the_tenants_thresholds_decide_and_not_its_action(houses: OpenHouse) -> None:
    house = await houses(moderation={"sexual_threshold": 0.99, "action": "off"})
    results = await results_of(house, ["nsfw"])
    assert (results[0]["flagged"], results[0]["category_scores"]["sexual"]) == (False, 0.95)
    house = await houses(moderation={"sexual_threshold": 0.3, "action": "off"})
    assert (await results_of(house, "a sexy car"))[0]["flagged"]


@pytest.mark.parametrize(
    "model",
    ["omni-moderation-latest", "omni-moderation-2024-09-26", "text-moderation-stable", "darkroom-stand-in", None],
)
async def test_openais_models_mean_ours(shared: House, model: str | None) -> None:
    answer = await ask(shared, "a red apple", model=model, user="somebody")
    assert (answer.status_code, answer.json()["model"]) == (200, "darkroom-stand-in")


async def test_another_model_is_unknown(shared: House) -> None:
    assert_error(await ask(shared, "x", model="dall-e-3"), 404, code="model_not_found", param="model")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": 7}, "input"),
        ({"input": {}}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", 7]}, "input"),
        ({"input": [7]}, "input"),
        ({"input": [text("a"), "b"]}, "input"),
        ({"input": ["a", text("b")]}, "input"),
        ({"input": ["a"] * 101}, "input"),
        ({"input": "a" * 200_001}, "input"),
        ({"input": [{"type": "audio"}]}, "input"),
        ({"input": [{"type": "text"}]}, "input"),
        ({"input": [{"type": "image_url", "image_url": "https://x.test/a.png"}]}, "input"),
        ({"input": "a", "model": 7}, "model"),
        ({"input": [image("")]}, "input.0.image_url.url"),
        ({"input": [image("http://x.test/a.png")]}, "input.0.image_url.url"),
        ({"input": [image("file:///etc/passwd")]}, "input.0.image_url.url"),
        ({"input": [image("/etc/passwd")]}, "input.0.image_url.url"),
        ({"input": [image("data:text/html;base64,AAAA")]}, "input.0.image_url.url"),
        ({"input": [image("data:image/png,AAAA")]}, "input.0.image_url.url"),
        ({"input": [image("data:image/png;base64,no base64!")]}, "input.0.image_url.url"),
        ({"input": [image("data:image/png;base64,")]}, "input.0.image_url.url"),
        ({"input": [image(data_uri(PLAIN)), image(data_uri(b"text"))]}, "input.1.image_url.url"),
        ({"input": [image(data_uri(PLAIN[:70]))]}, "input.0.image_url.url"),
    ],
)
async def test_bad_input_is_400_and_names_the_field(shared: House, body: dict[str, Any], param: str) -> None:
    answer = await shared.alice.post(ROUTE, json=body)
    assert_error(answer, 400)
    assert answer.json()["error"]["param"].startswith(param)


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1/a.png", "https://[::1]/a.png", "https://169.254.169.254/a", "https://u:p@x.test/a.png"]
)
async def test_nothing_inside_can_be_reached_through_a_url(shared: House, url: str) -> None:
    assert_error(await ask(shared, [image(url)]), 400, code="invalid_image_url", param="input.0.image_url.url")


async def test_without_a_moderator_pictures_are_refused_and_texts_are_not(house: House) -> None:
    house.moderator.is_lost = True
    answer = await ask(house, [image(data_uri(PLAIN))])
    assert_error(answer, 503, code="moderator_unavailable")
    assert answer.headers["Retry-After"]
    assert (await results_of(house, "nsfw"))[0]["flagged"]


async def test_an_upload_is_looked_at_and_is_nobody_elses(house: House) -> None:
    upload = await an_upload(house, "image")
    (result,) = await results_of(house, [image(upload.id)])
    assert result["category_scores"]["sexual"] == 1.0
    for answer in (
        await house.bob.post(ROUTE, json={"input": [image(upload.id)]}),
        await ask(house, [image("upl_nothing")]),
    ):
        assert_error(answer, 404, code="upload_not_found")


async def test_an_upload_that_is_no_picture_or_not_ready_is_refused(house: House) -> None:
    uploads = [await an_upload(house, "video"), await an_upload(house, "image", is_ready=False)]
    for upload in uploads:
        assert_error(await ask(house, [image(upload.id)]), 400, code="invalid_image_url")


async def an_upload(house: House, purpose: Purpose, *, is_ready: bool = True) -> Upload:
    """Of alice's, with the marked picture in it."""
    upload = new_upload(
        "alice", Offer("a.png", "image/png", len(MARKED), purpose), keep_s=60, upload_id=new_upload_id()
    )
    key = f"{upload.folder}a.png"
    house.blobs.put(key, MARKED, "image/png")
    if is_ready:
        content = Content("ab", "image/png", {"kind": purpose}, StoredFile(key, "ab"), None, None, None)
        upload = replace(upload, status="ready", content=content)
    await UploadStore(house.mongo).insert(upload)
    return upload


async def test_the_official_client_gets_its_own_types(house: House) -> None:
    key = house.alice.headers["Authorization"].removeprefix("Bearer ")
    async with on_a_port(house.app) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, timeout=30) as client:
        texts = await client.moderations.create(input=["a red apple", "a naked child"])
        both = await client.moderations.create(
            model="omni-moderation-latest",
            input=[
                {"type": "text", "text": "a red apple"},
                {"type": "image_url", "image_url": {"url": data_uri(MARKED)}},
            ],
        )
        with pytest.raises(openai.BadRequestError) as caught:
            await client.moderations.create(input=[{"type": "image_url", "image_url": {"url": data_uri(b"text")}}])
    assert [result.flagged for result in texts.results] == [False, True]
    assert texts.results[1].categories.sexual_minors
    (result,) = both.results
    assert (result.flagged, result.categories.sexual, result.category_scores.sexual) == (True, True, 1.0)
    assert result.category_applied_input_types.sexual == ["text", "image"]
    assert caught.value.param == "input.0.image_url.url"


# Pictures on the internet, over TLS as it is there.


def named(house: House, trusting: ssl.SSLContext, *, max_bytes: int = 100_000) -> NamedPictures:
    return NamedPictures(outbound(tls=trusting), house.services.uploads, max_bytes=max_bytes)


def reply(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def test_a_picture_is_fetched_over_https(shared: House, tmp_path: Path) -> None:
    serving, trusting = certificates(tmp_path, "hooks.test")
    async with server(reply("200 OK", PLAIN), tls=serving) as there:
        url = there.url("/a.png", scheme="https")
        assert await named(shared, trusting).read("alice", url, param="p") == PLAIN
        with pytest.raises(TooLarge) as caught:
            await named(shared, trusting, max_bytes=len(PLAIN) - 1).read("alice", url, param="p")
        assert caught.value.param == "p"


async def test_a_url_without_a_picture_says_what_it_answered(shared: House, tmp_path: Path) -> None:
    serving, trusting = certificates(tmp_path, "hooks.test")
    async with server(reply("404 Not Found", b""), tls=serving) as there:
        with pytest.raises(BadInput, match="404"):
            await named(shared, trusting).read("alice", there.url("/a.png", scheme="https"), param="p")


async def test_a_data_uri_over_the_limit_is_too_large(houses: OpenHouse) -> None:
    house = await houses(api={"max_image_bytes": len(PLAIN) - 1})
    assert_error(await ask(house, [image(data_uri(PLAIN))]), 413, code="image_too_large")
