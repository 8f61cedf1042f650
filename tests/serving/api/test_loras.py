"""/v1/loras over HTTP: import, list, download, delete; what a request's `loras` makes of it; who may see what."""

import asyncio
import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load

from pipelines.request import LoraChoice
from tests.models.lora_bytes import kohya_tensors, lora_bytes, raw_file
from tests.serving.api.conftest import GOOD, NATIVE, OPENAI, assert_error
from tests.serving.conftest import OpenHouse
from tests.serving.house import House

IMPORT = "/v1/loras/import"


async def post(client: httpx.AsyncClient, data: bytes | None = None, name: str = "style", **fields: str) -> Any:
    file = lora_bytes() if data is None else data
    return await client.post(IMPORT, files={"file": ("x.safetensors", file)}, data={"name": name, **fields})


async def test_without_a_key_nothing_is_told(house: House) -> None:
    for path in ("/v1/loras", "/v1/loras/style", "/v1/loras/style/versions/1/download"):
        assert_error(await house.anonymous.get(path), 401)
    assert_error(await post(house.anonymous), 401)
    assert_error(await house.anonymous.delete("/v1/loras/style"), 401)
    assert_error(await house.anonymous.delete("/v1/loras/style/versions/1"), 401)


async def test_another_tenants_adapter_is_unknown_everywhere(house: House) -> None:
    assert (await post(house.alice)).status_code == 201
    assert (await house.bob.get("/v1/loras")).json()["data"] == []
    for answer in (
        await house.bob.get("/v1/loras/style"),
        await house.bob.get("/v1/loras/style/versions/1/download"),
        await house.bob.delete("/v1/loras/style"),
        await house.bob.delete("/v1/loras/style/versions/1"),
        await house.bob.post(NATIVE, json={**GOOD, "loras": [{"name": "style"}]}),
        await house.bob.post(OPENAI, json={**GOOD, "loras": [{"name": "style@1"}]}),
    ):
        assert_error(answer, 404, code="adapter_not_found")
    assert_error(await house.bob.get("/v1/models/style"), 404, code="model_not_found")
    assert (await house.alice.get("/v1/loras/style")).status_code == 200


async def test_an_import_tells_all_of_the_version(house: House) -> None:
    answer = await post(house.alice, trigger="sks", metadata='{"author": "☀"}', base_model="flux-schnell")
    assert answer.status_code == 201
    body = answer.json()
    assert body.pop("created_at") > 1_700_000_000
    assert body.pop("lineage")["import_id"].startswith("imp_")
    assert len(body.pop("sha256")) == 64
    assert body == {
        "id": "style@1",
        "object": "lora.version",
        "name": "style",
        "version": 1,
        "base_model": "flux-schnell",
        "family": "flux",
        "trigger": "sks",
        "bytes": len(lora_bytes()),
        "format": "diffusers",
        "components": ["unet"],
        "layers": 32,
        "max_rank": 8,
        "metadata": {"author": "☀"},
    }


async def test_the_same_bytes_again_are_the_same_version(house: House) -> None:
    first = await post(house.alice, trigger="sks")
    again = await post(house.alice, trigger="another")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert (await post(house.alice, base_model="flux-schnell")).json()["id"] == "style@2"


async def test_adapters_are_listed_by_name_with_their_versions_newest_first(house: House) -> None:
    for seed in (0, 1):
        await post(house.alice, lora_bytes(seed=seed), "style")
    await post(house.alice, name="a-first")
    data = (await house.alice.get("/v1/loras")).json()["data"]
    assert [(lora["id"], lora["latest"]) for lora in data] == [("a-first", "a-first@1"), ("style", "style@2")]
    assert [version["id"] for version in data[1]["versions"]] == ["style@2", "style@1"]
    assert (await house.alice.get("/v1/loras/style")).json() == data[1]
    assert_error(await house.alice.get("/v1/loras/nobody"), 404, code="adapter_not_found")


async def test_adapters_are_among_the_models_under_their_name(house: House) -> None:
    await post(house.alice)
    await post(house.alice, lora_bytes(seed=1), trigger="sks")
    models = (await house.alice.get("/v1/models")).json()["data"]
    assert [model["id"] for model in models] == ["emoji-3d", "flux-schnell", "style"]
    created = models[-1].pop("created")
    assert created > 1_700_000_000
    assert models[-1] == {
        "id": "style",
        "object": "model",
        "owned_by": "alice",
        "kind": "lora",
        "family": "sd",
        "ready": True,
        "title": "style",
        "root": "style@2",
        "parent": "emoji-3d",
        "trigger": "sks",
    }
    assert (await house.alice.get("/v1/models/style")).json() == {**models[-1], "created": created}
    assert (await house.alice.get("/v1/models/style@1")).json()["root"] == "style@1"
    assert [model["id"] for model in (await house.bob.get("/v1/models")).json()["data"]] == models_of(house)


def models_of(house: House) -> list[str]:
    return list(house.services.catalog)


async def test_a_download_leads_to_the_file_as_it_came(house: House) -> None:
    await post(house.alice)
    for query in ("", "?format=diffusers"):
        answer = await house.alice.get(f"/v1/loras/style/versions/1/download{query}")
        assert answer.status_code == 307
        assert house.blobs.open_url(answer.headers["Location"]) == lora_bytes()


async def test_a_download_as_kohya_has_its_keys_and_alphas(house: House) -> None:
    await post(house.alice)
    answer = await house.alice.get("/v1/loras/style/versions/1/download?format=kohya")
    loaded = load(house.blobs.open_url(answer.headers["Location"]))
    assert len(loaded) == 9
    assert all(key.startswith(("lora_unet_", "lora_te_")) for key in loaded)
    assert {float(loaded[key]) for key in loaded if key.endswith(".alpha")} == {4.0}


async def test_a_format_that_a_file_cannot_have_is_refused(house: House) -> None:
    await post(house.alice, base_model="flux-schnell")
    comfy = {
        "diffusion_model.a.lora_A.weight": np.zeros((2, 8), np.float32),
        "diffusion_model.a.lora_B.weight": np.zeros((8, 2), np.float32),
    }
    await post(house.alice, lora_bytes(comfy), "comfy")
    for path in ("style/versions/1/download?format=kohya", "comfy/versions/1/download?format=diffusers"):
        assert_error(await house.alice.get(f"/v1/loras/{path}"), 400, code="unsupported", param="format")
    assert_error(await house.alice.get("/v1/loras/comfy/versions/1/download?format=pickle"), 422, param="format")
    kohya = lora_bytes(kohya_tensors())
    await post(house.alice, kohya, "kohya", base_model="flux-schnell")
    answer = await house.alice.get("/v1/loras/kohya/versions/1/download?format=kohya")
    assert house.blobs.open_url(answer.headers["Location"]) == kohya


async def test_a_deleted_version_is_gone_and_the_next_latest_steps_in(house: House) -> None:
    for seed in (0, 1):
        await post(house.alice, lora_bytes(seed=seed))
    answer = await house.alice.delete("/v1/loras/style/versions/2")
    assert (answer.status_code, answer.json()) == (200, {"id": "style@2", "deleted": True})
    assert (await house.alice.get("/v1/loras/style")).json()["latest"] == "style@1"
    assert_error(await house.alice.delete("/v1/loras/style/versions/2"), 404, code="adapter_not_found")
    assert_error(await house.alice.get("/v1/loras/style/versions/2/download"), 404, code="adapter_not_found")
    assert (await house.alice.delete("/v1/loras/style")).json() == {"id": "style", "deleted": True}
    assert house.blobs.keys == []
    assert (await house.alice.get("/v1/loras")).json()["data"] == []


DAMAGED = {
    "nothing": b"",
    "text": b"this is no adapter at all",
    "a cut file": lora_bytes()[:-10],
    "a pickle": b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00.",
    "a zip": b"PK\x03\x04" + bytes(60),
    "a header without end": struct.pack("<Q", 2**63) + b"{}",
    "a whole model": lora_bytes({"unet.conv_in.weight": np.zeros((4, 4), np.float32)}),
    "a deep header": raw_file(b'{"a":' * 50_000),
}


@pytest.mark.parametrize("what", DAMAGED)
async def test_a_damaged_file_is_refused_and_nothing_is_kept(house: House, what: str) -> None:
    assert_error(await post(house.alice, DAMAGED[what]), 400, code="bad_adapter", param="file")
    assert house.blobs.keys == []
    assert house.backend.checked == []


async def test_what_the_engine_says_of_a_file_reaches_the_caller(house: House) -> None:
    house.backend.adapter_refusal = "The key 'unet.nowhere' matches nothing in emoji-3d."
    assert "unet.nowhere" in assert_error(await post(house.alice), 400, code="bad_adapter", param="file")


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"name": "Big"}, 400, "name"),
        ({"name": "a@1"}, 400, "name"),
        ({"name": "../a"}, 400, "name"),
        ({"name": "emoji-3d"}, 400, "name"),
        ({"base_model": "dall-e-3"}, 404, "base_model"),
        ({"trigger": "x" * 201}, 400, "trigger"),
        ({"trigger": "a\x00b"}, 400, "trigger"),
        ({"metadata": "["}, 400, "metadata"),
        ({"metadata": "[]"}, 400, "metadata"),
        ({"metadata": '{"a": 1}'}, 400, "metadata"),
        ({"metadata": '{"a b": "x"}'}, 400, "metadata"),
        ({"metadata": json.dumps({"a": "x" * 513})}, 400, "metadata"),
        ({"metadata": json.dumps({f"k{i}": "x" for i in range(17)})}, 400, "metadata"),
    ],
)
async def test_a_bad_field_is_named(house: House, fields: dict[str, str], status: int, param: str) -> None:
    assert_error(await post(house.alice, **fields), status, param=param)
    assert house.blobs.keys == []


async def test_a_form_without_a_file_or_a_name_is_refused(house: House) -> None:
    assert_error(await house.alice.post(IMPORT, data={"name": "x"}, files={"other": b""}), 422, param="file")
    assert_error(await house.alice.post(IMPORT, files={"file": lora_bytes()}), 422, param="name")
    assert_error(await house.alice.post(IMPORT, json={"name": "x"}), 415)


async def test_a_file_over_the_limit_is_413(houses: OpenHouse) -> None:
    house = await houses(api={"max_adapter_bytes": 100})
    assert_error(await post(house.alice), 413, param="file")


async def test_without_an_engine_or_a_store_an_import_may_be_tried_again(house: House) -> None:
    house.router.is_lost = True
    answer = await post(house.alice)
    assert_error(answer, 503)
    assert answer.headers["Retry-After"]
    house.router.is_lost = False
    house.blobs.is_down = True
    assert_error(await post(house.alice), 503, code="storage_unavailable")
    house.blobs.is_down = False
    assert (await post(house.alice)).status_code == 201


async def test_imports_of_one_name_at_once_are_versions_of_their_own(house: House) -> None:
    answers = await asyncio.gather(*(post(house.alice, lora_bytes(seed=seed)) for seed in range(6)))
    assert [answer.status_code for answer in answers] == [201] * 6
    assert sorted(answer.json()["version"] for answer in answers) == [1, 2, 3, 4, 5, 6]


# What a request makes of adapters.


async def test_a_job_is_pinned_to_the_version_and_file_of_its_day(house: House) -> None:
    for seed in (0, 1):
        await post(house.alice, lora_bytes(seed=seed))
    house.backend.gate.clear()
    wish = {**GOOD, "loras": [{"name": "style", "scale": 0.5}, {"name": "style@1"}]}
    job_id = (await house.alice.post(NATIVE, json=wish)).json()["id"]
    await post(house.alice, lora_bytes(seed=2))
    house.backend.gate.set()
    job = await house.until(await house.store.get("alice", job_id), "succeeded")
    latest = await house.services.adapters.resolve("alice", "style@2")
    first = await house.services.adapters.resolve("alice", "style@1")
    assert job.request.loras == (LoraChoice("style@2", 0.5, latest.file), LoraChoice("style@1", 1.0, first.file))
    shown = (await house.alice.get(f"/v1/jobs/{job_id}")).json()["request"]["loras"]
    assert shown == [{"name": "style@2", "scale": 0.5}, {"name": "style@1", "scale": 1.0}]


async def test_an_adapter_for_another_model_is_refused_naming_both(house: House) -> None:
    await post(house.alice, base_model="flux-schnell")
    message = assert_error(
        await house.alice.post(OPENAI, json={**GOOD, "loras": [{"name": "style"}]}),
        400,
        code="wrong_base_model",
        param="loras",
    )
    assert "style@1" in message
    assert "flux-schnell" in message
    assert "emoji-3d" in message


@pytest.mark.parametrize("names", [["style", "style"], ["style", "style@1"], ["style@1", "style", "other"]])
async def test_the_same_adapter_twice_is_refused(house: House, names: list[str]) -> None:
    await post(house.alice)
    await post(house.alice, name="other")
    wish = {**GOOD, "loras": [{"name": name} for name in names]}
    message = assert_error(await house.alice.post(OPENAI, json=wish), 400, param="loras")
    assert "style@1 twice" in message


async def test_eight_adapters_may_be_mixed_and_nine_not(house: House) -> None:
    for seed in range(9):
        await post(house.alice, lora_bytes(seed=seed))
    loras = [{"name": f"style@{version}", "scale": 0.1} for version in range(1, 10)]
    assert (await house.alice.post(OPENAI, json={**GOOD, "loras": loras[:8]})).status_code == 200
    assert_error(await house.alice.post(OPENAI, json={**GOOD, "loras": loras}), 400, param="loras")


@pytest.mark.parametrize("name", ["nobody", "style@2", "style@0", "Style", "style@", "../style", "ü"])
async def test_an_adapter_that_does_not_exist_is_404(house: House, name: str) -> None:
    await post(house.alice)
    wish = {**GOOD, "loras": [{"name": name}]}
    assert_error(await house.alice.post(OPENAI, json=wish), 404, code="adapter_not_found", param="loras")
