"""darkroom moderate: what it sends, and how it tells what came back."""

import base64
import json
from pathlib import Path

import httpx
import pytest

from tests.serving.cli.fake_server import PNG, FakeDarkroom, darkroom, refusal

RESULT = {
    "flagged": True,
    "categories": {"sexual": True, "sexual/minors": False},
    "category_scores": {"sexual": 0.91234, "sexual/minors": 0.0},
    "category_applied_input_types": {"sexual": ["image"], "sexual/minors": []},
}


@pytest.fixture
def server(server: FakeDarkroom) -> FakeDarkroom:
    body = {"id": "modr-1", "model": "darkroom-open-nsfw", "results": [RESULT]}
    server.answers["POST", "/v1/moderations"] = lambda _: httpx.Response(200, json=body)
    return server


def sent_by(server: FakeDarkroom) -> list[dict]:
    (request,) = server.sent("POST", "/v1/moderations")
    return json.loads(request.content)["input"]


def test_a_picture_is_sent_whole_and_its_scores_are_lines(server: FakeDarkroom, tmp_path: Path) -> None:
    (tmp_path / "a.webp").write_bytes(PNG)
    result = darkroom(server, "moderate", "a.webp")
    assert (result.exit_code, result.stdout) == (0, "sexual\t0.9123\tyes\nsexual/minors\t0.0000\tno\n")
    assert result.stderr == "Flagged.\n"
    uri = f"data:image/webp;base64,{base64.b64encode(PNG).decode()}"
    assert sent_by(server) == [{"type": "image_url", "image_url": {"url": uri}}]


def test_a_prompt_and_a_picture_are_judged_together(server: FakeDarkroom, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(PNG)
    assert darkroom(server, "moderate", "a", "--text", "a red apple").exit_code == 0
    assert [part["type"] for part in sent_by(server)] == ["text", "image_url"]


def test_a_prompt_alone_will_do(server: FakeDarkroom) -> None:
    assert darkroom(server, "moderate", "--text", "a red apple").exit_code == 0
    assert sent_by(server) == [{"type": "text", "text": "a red apple"}]


def test_without_anything_to_judge_it_is_a_usage_error(server: FakeDarkroom) -> None:
    assert darkroom(server, "moderate").exit_code == 2
    assert server.seen == []


def test_a_file_that_is_not_there_or_no_picture_is_one_line(server: FakeDarkroom, tmp_path: Path) -> None:
    result = darkroom(server, "moderate", "none.png")
    assert (result.exit_code, "cannot be read" in result.stderr) == (1, True)
    (tmp_path / "a.txt").write_bytes(b"text")
    server.answers["POST", "/v1/moderations"] = lambda _: refusal(400, "The image is no picture.", code="bad_image")
    result = darkroom(server, "moderate", "a.txt")
    assert (result.exit_code, result.stderr) == (1, "The image is no picture.\n")
