"""darkroom loras, and generate --lora: what they send, show and save."""

import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.cli.loras import parse_lora
from tests.serving.cli.fake_server import PNG, STORE, FakeDarkroom, darkroom, refusal

SHA256 = hashlib.sha256(PNG).hexdigest()


def version(number: int) -> dict[str, Any]:
    return {
        "id": f"style@{number}",
        "object": "lora.version",
        "name": "style",
        "version": number,
        "created_at": 1_700_000_000,
        "base_model": "emoji-3d",
        "family": "sd",
        "trigger": "sks",
        "sha256": SHA256,
        "bytes": len(PNG),
        "format": "diffusers",
        "components": ["unet", "text_encoder"],
        "layers": 32,
        "max_rank": 8,
        "metadata": {"author": "me"},
        "lineage": {"source": "import", "import_id": "imp_1"},
    }


@pytest.fixture
def server(server: FakeDarkroom) -> FakeDarkroom:
    lora = {**version(2), "id": "style", "latest": "style@2", "versions": [version(2), version(1)]}
    there = httpx.Response(307, headers={"Location": f"{STORE}/model.safetensors?X-Amz-Signature=x"})
    server.answers["GET", "/v1/loras"] = lambda _: httpx.Response(200, json={"data": [lora]})
    server.answers["GET", "/v1/loras/style"] = lambda _: httpx.Response(200, json=lora)
    server.answers["POST", "/v1/loras/import"] = lambda _: httpx.Response(201, json=version(3))
    server.answers["DELETE", "/v1/loras/style"] = lambda _: httpx.Response(200, json={"deleted": True})
    server.answers["DELETE", "/v1/loras/style/versions/2"] = lambda _: httpx.Response(200, json={"deleted": True})
    for number in (1, 2):
        server.answers["GET", f"/v1/loras/style/versions/{number}/download"] = lambda _: there
    return server


def test_import_sends_the_file_with_its_fields_and_prints_the_version(server: FakeDarkroom, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(PNG)
    options = ("--name", "style", "--base-model", "emoji-3d", "--trigger", "sks")
    result = darkroom(server, "loras", "import", "x.safetensors", *options)
    assert (result.exit_code, result.stdout) == (0, "style@3\n")
    assert "32 layers for emoji-3d, rank 8" in result.stderr
    (request,) = server.sent("POST", "/v1/loras/import")
    assert request.headers["Content-Type"].startswith("multipart/form-data")
    for part in (PNG, b'name="name"', b'name="base_model"', b'name="trigger"', b'filename="x.safetensors"'):
        assert part in request.content


def test_import_of_a_file_that_is_not_there_is_one_line(server: FakeDarkroom) -> None:
    result = darkroom(server, "loras", "import", "none.safetensors", "--name", "style")
    assert result.exit_code == 1
    assert "cannot be read" in result.stderr
    assert server.seen == []


def test_import_tells_what_the_server_found_wrong(server: FakeDarkroom, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    server.answers["POST", "/v1/loras/import"] = lambda _: refusal(400, "The key 'a' is wrong.", code="bad_adapter")
    result = darkroom(server, "loras", "import", "x", "--name", "style")
    assert (result.exit_code, result.stderr) == (1, "The key 'a' is wrong.\n")


def test_list_and_show_are_lines_for_programs(server: FakeDarkroom) -> None:
    assert darkroom(server, "loras", "list").stdout.startswith("style@2\t2\temoji-3d\tsks\t2023-11-1")
    latest, first = (
        darkroom(server, "loras", "show", "style").stdout,
        darkroom(server, "loras", "show", "style@1").stdout,
    )
    assert "id\tstyle@2\n" in latest
    assert "id\tstyle@1\n" in first
    assert "components\tunet text_encoder\n" in latest
    assert "lineage.import_id\timp_1\nmetadata.author\tme\n" in latest
    missing = darkroom(server, "loras", "show", "style@7")
    assert (missing.exit_code, "there is style@2, style@1" in missing.stderr) == (1, True)


def test_delete_takes_a_version_or_all(server: FakeDarkroom) -> None:
    assert darkroom(server, "loras", "delete", "style@2").exit_code == 0
    assert darkroom(server, "loras", "delete", "style").exit_code == 0
    assert [r.url.path for r in server.seen if r.method == "DELETE"] == [
        "/v1/loras/style/versions/2",
        "/v1/loras/style",
    ]
    assert darkroom(server, "loras", "delete", "style@x").exit_code == 2


def test_download_saves_the_file_under_its_name_and_version(server: FakeDarkroom, tmp_path: Path) -> None:
    result = darkroom(server, "loras", "download", "style")
    assert (result.exit_code, result.stdout) == (0, "style-v2.safetensors\n")
    assert (tmp_path / "style-v2.safetensors").read_bytes() == PNG
    assert darkroom(server, "loras", "download", "style@1", "-o", "own.bin", "--format", "kohya").stdout == "own.bin\n"
    assert server.sent("GET", "/v1/loras/style/versions/1/download")[0].url.params["format"] == "kohya"


def test_download_writes_over_nothing_and_keeps_nothing_damaged(server: FakeDarkroom, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    assert darkroom(server, "loras", "download", "style", "-o", "mine").exit_code == 1
    assert (tmp_path / "mine").read_bytes() == b"mine"
    server.stored = b"other bytes"
    result = darkroom(server, "loras", "download", "style")
    assert (result.exit_code, "arrived damaged" in result.stderr) == (1, True)
    assert not (tmp_path / "style-v2.safetensors").exists()


def test_generate_names_adapters_with_their_scales(server: FakeDarkroom) -> None:
    assert darkroom(server, "generate", "a cat", "--lora", "style@2:0.8", "--lora", "other").exit_code == 0
    (request,) = server.sent("POST", "/v1/generate/image")
    assert json.loads(request.content)["loras"] == [{"name": "style@2", "scale": 0.8}, {"name": "other"}]


@pytest.mark.parametrize(("text", "scale"), [("a:-1", -1.0), ("a:.5", 0.5), ("a:1e-1", 0.1)])
def test_a_scale_is_any_number(text: str, scale: float) -> None:
    assert parse_lora(text) == {"name": "a", "scale": scale}


@pytest.mark.parametrize("text", ["a:", "a:x", "a:nan", "a:inf", ":1"])
def test_a_lora_that_is_none_is_a_usage_error(server: FakeDarkroom, text: str) -> None:
    result = darkroom(server, "generate", "a cat", "--lora", text)
    assert result.exit_code == 2
    assert server.seen == []
