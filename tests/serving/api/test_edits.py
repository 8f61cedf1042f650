"""POST /v1/images/edits: a picture and a mask in, checked at the door, kept beside the job, answered as pictures."""

import base64
import hashlib
import io
import json
from typing import Any

import httpx
import pytest
from PIL import Image

from models.errors import BlobError, InputImageError
from serving.errors import Unavailable
from serving.jobs.job import Job
from tests.serving.api.conftest import EDITS, NATIVE, assert_error, events_of, mask_bytes, picture_bytes
from tests.serving.conftest import OpenHouse
from tests.serving.house import House

FORM: dict[str, str] = {"prompt": "a red apple", "num_inference_steps": "5", "seed": "7"}
IMAGE, MASK = picture_bytes(96, 64), mask_bytes(96, 64)


async def edit(house: House, files: Any = None, **fields: Any) -> httpx.Response:
    return await house.alice.post(EDITS, data=FORM | fields, files={"image": IMAGE} if files is None else files)


async def job_of(house: House, answer: httpx.Response) -> Job:
    assert answer.status_code == 200, answer.text[:500]
    return await house.store.get("alice", answer.json()["job_id"])


async def test_without_a_key_nothing_is_made(house: House) -> None:
    assert_error(await house.anonymous.post(EDITS, data=FORM, files={"image": IMAGE}), 401, code="missing_api_key")
    assert (house.backend.calls, house.blobs.keys) == ([], [])


async def test_the_job_behind_it_belongs_to_the_caller_alone(house: House) -> None:
    job = await job_of(house, await edit(house))
    assert_error(await house.bob.get(f"/v1/jobs/{job.id}"), 404, code="job_not_found")


async def test_a_picture_becomes_a_picture_of_its_own_size(house: House) -> None:
    answer = await edit(house, response_format="b64_json")
    body = answer.json()
    assert body["size"] == "96x64"
    with Image.open(io.BytesIO(base64.b64decode(body["data"][0]["b64_json"]))) as picture:
        assert picture.size == (96, 64)
    job = await job_of(house, answer)
    assert (job.request.seed, job.request.num_inference_steps, job.request.strength) == (7, 5, 0.8)
    assert (job.request.mask, job.steps) == (None, 4)


async def test_the_files_are_kept_beside_the_job_the_picture_as_it_came(house: House) -> None:
    job = await job_of(house, await edit(house, {"image": IMAGE, "mask": MASK}))
    for name, file in (("image", job.request.image), ("mask", job.request.mask)):
        assert file is not None
        assert file.key == f"temp/{job.id}/{name}.png"
        assert file.sha256 == hashlib.sha256(house.blobs.get(file.key)).hexdigest()
        assert (house.blobs.get(file.key) == IMAGE) is (name == "image")
        assert house.blobs.head(file.key).content_type == "image/png"
    assert (job.request.strength, job.steps) == (1.0, 5)


async def test_the_job_tells_its_strength_and_no_key_of_the_bucket(house: House) -> None:
    job = await job_of(house, await edit(house, {"image": IMAGE, "mask": MASK}, strength="0.5"))
    body = (await house.alice.get(f"/v1/jobs/{job.id}")).json()
    assert body["request"]["strength"] == 0.5
    assert "temp/" not in json.dumps(body["request"])


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
async def test_the_type_is_judged_by_the_bytes_not_by_the_name(house: House, format: str) -> None:
    files = {"image": ("picture.gif", picture_bytes(64, 64, format=format), "text/html")}
    job = await job_of(house, await edit(house, files))
    assert job.request.image is not None
    assert house.blobs.head(job.request.image.key).content_type == f"image/{format.lower()}"


async def test_openais_name_for_a_list_of_pictures_is_taken(house: House) -> None:
    await job_of(house, await edit(house, {"image[]": IMAGE}))


async def test_all_parameters_of_generations_are_taken_as_text(house: House) -> None:
    answer = await edit(
        house,
        model="emoji-3d",
        n="2",
        size="64x128",
        negative_prompt="blue",
        guidance_scale="3.5",
        scheduler="ddim",
        output_format="webp",
        output_compression="80",
        priority="low",
        metadata='{"order": "1"}',
        loras="[]",
        strength="1",
        user="u1",
        quality="high",
        background="auto",
        input_fidelity="high",
        stream="false",
    )
    job = await job_of(house, answer)
    request = job.request
    assert (request.num_images, request.width_px, request.height_px, request.guidance_scale) == (2, 64, 128, 3.5)
    assert (request.negative_prompt, request.scheduler, request.output_format) == ("blue", "ddim", "webp")
    assert (request.output_compression, request.strength) == (80, 1.0)
    assert (job.priority, job.metadata, job.user) == ("low", {"order": "1"}, "u1")
    assert answer.json()["quality"] == "high"


async def test_an_empty_field_is_one_left_out(house: House) -> None:
    job = await job_of(house, await edit(house, strength="", size="", n="", loras="", negative_prompt="", mask=""))
    assert (job.request.strength, job.request.num_images) == (0.8, 1)


async def test_with_stream_events_come_under_the_name_of_edits(house: House) -> None:
    house.backend.step_s = 0.001
    events = events_of(await edit(house, stream="true", partial_images="2"))
    assert [name for name, _ in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert {data["size"] for _, data in events} == {"96x64"}


async def test_what_the_engine_finds_wrong_with_the_picture_is_the_callers_fault(house: House) -> None:
    house.backend.troubles.append(InputImageError("the image cannot be decoded"))
    assert_error(await edit(house), 400, code="bad_image", param="image")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": " "}, "prompt"),
        ({"strength": "0"}, "strength"),
        ({"strength": "1.01"}, "strength"),
        ({"strength": "-1"}, "strength"),
        ({"strength": "nan"}, "strength"),
        ({"strength": "half"}, "strength"),
        ({"strength": "0.19"}, "strength"),
        ({"n": "0"}, "n"),
        ({"n": "1.5"}, "n"),
        ({"n": "two"}, "n"),
        ({"size": "65x64"}, "size"),
        ({"size": "1024x1024"}, "size"),
        ({"seed": "-1"}, "seed"),
        ({"guidance_scale": "inf"}, "guidance_scale"),
        ({"model": "dall-e-2"}, "model"),
        ({"scheduler": "magic"}, "scheduler"),
        ({"output_format": "gif"}, "output_format"),
        ({"background": "transparent"}, "background"),
        ({"response_format": "file"}, "response_format"),
        ({"stream": "maybe"}, "stream"),
        ({"partial_images": "4"}, "partial_images"),
        ({"loras": "alice"}, "loras"),
        ({"loras": '{"name": "alice"}'}, "loras"),
        ({"loras": "[" * 100_000}, "loras"),
        ({"loras": '[{"name": "alice", "scale": "1"}]'}, "loras"),
        ({"loras[][name]": "alice"}, "loras"),
        ({"metadata": "[]"}, "metadata"),
        ({"metadata": "NaN"}, "metadata"),
        ({"metadata[order]": "1"}, "metadata"),
    ],
)
async def test_bad_fields_are_refused_by_name(shared: House, fields: dict[str, str], param: str) -> None:
    answer = await edit(shared, **fields)
    assert answer.status_code in {400, 404}
    assert_error(answer, answer.status_code)
    assert answer.json()["error"]["param"].startswith(param)


@pytest.mark.parametrize(
    ("files", "param", "words"),
    [
        ([("mask", MASK)], "image", "exactly once"),
        ([("image", IMAGE), ("image", IMAGE)], "image", "there are 2"),
        ([("image", IMAGE), ("image[]", IMAGE)], "image", "there are 2"),
        ([("image", IMAGE), ("mask", MASK), ("mask", MASK)], "mask", "once"),
        ([("image", IMAGE), ("mask", mask_bytes(64, 96))], "mask", "96x64"),
        ([("image", IMAGE), ("mask", IMAGE)], "mask", "opaque"),
        ([("image", IMAGE), ("mask", b"x")], "mask", "PNG, JPEG or WebP"),
        ([("image", b"")], "image", "PNG, JPEG or WebP"),
        ([("image", IMAGE[:-40])], "image", "damaged"),
        ([("image", picture_bytes(format="GIF"))], "image", "PNG, JPEG or WebP"),
        ([("image", picture_bytes(4_097, 1))], "image", "4096"),
        ([("image", IMAGE), ("prompt", b"a file")], "prompt", "text"),
    ],
)
async def test_bad_files_are_refused_with_the_reason(shared: House, files: Any, param: str, words: str) -> None:
    named = [(name, ("a.png", data)) for name, data in files]
    assert words in assert_error(await shared.alice.post(EDITS, data=FORM, files=named), 400, param=param)


async def test_text_where_a_file_belongs_is_refused(shared: House) -> None:
    answer = await shared.alice.post(EDITS, data=FORM | {"image": "https://example.org/a.png"}, files={"x": b"x"})
    assert "file" in assert_error(answer, 400, param="image")


async def test_a_file_over_the_limit_is_refused(houses: OpenHouse) -> None:
    house = await houses(api={"max_image_bytes": len(IMAGE) - 1})
    assert_error(await edit(house), 400, param="image", code="image_too_large")


async def test_nothing_of_a_refused_edit_is_stored(house: House) -> None:
    for files, fields in (({"image": IMAGE, "mask": IMAGE}, {}), (None, {"strength": "0.1"}), (None, {"model": "x"})):
        assert not (await edit(house, files, **fields)).is_success
    assert house.blobs.keys == []
    assert (await house.alice.get("/v1/jobs")).json()["data"] == []


async def test_the_files_are_there_before_the_job_and_go_when_it_cannot_be_stored(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []

    async def away(_job: Job) -> None:
        keys.extend(house.blobs.keys)
        raise Unavailable("the database is away")

    monkeypatch.setattr(house.store, "insert", away)
    assert_error(await edit(house, {"image": IMAGE, "mask": MASK}), 503)
    assert [key.rpartition("/")[2] for key in keys] == ["image.png", "mask.png"]
    assert house.blobs.keys == []


async def test_without_the_object_store_there_is_no_job(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_args: Any) -> None:
        raise BlobError("no answer")

    monkeypatch.setattr(house.blobs, "put", down)
    assert_error(await edit(house), 503, code="storage_unavailable")
    assert (await house.alice.get("/v1/jobs")).json()["data"] == []


async def test_our_own_route_stays_without_pictures(shared: House) -> None:
    for field in ("image", "mask", "strength"):
        answer = await shared.alice.post(NATIVE, json={"prompt": "a red apple", field: 0.5})
        assert_error(answer, 422, param=field)
