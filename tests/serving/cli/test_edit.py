"""darkroom edit: the form it sends, what it saves, and what it says when the answer does not come."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.datastructures import UploadFile
from starlette.requests import Request

from serving.api.edits import read_fields
from tests.serving.cli.fake_server import PNG, FakeDarkroom, darkroom, refusal

EDITS = ("POST", "/v1/images/edits")
MASK = b"the bytes of a mask"
ORDER_MAY_HAVE_ARRIVED = "If the order had arrived, its job goes on; find it with: darkroom jobs"


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, _own_world: None) -> None:
    (tmp_path / "apple.png").write_bytes(PNG)
    (tmp_path / "mask.png").write_bytes(MASK)


def received(request: httpx.Request) -> Request:
    """The same as the server's side has it."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": request.content, "more_body": False}

    headers = [(name.lower(), value) for name, value in request.headers.raw]
    return Request({"type": "http", "headers": headers}, receive)


def test_edit_saves_the_picture_and_prints_its_path_alone_on_stdout(server: FakeDarkroom, tmp_path: Path) -> None:
    result = darkroom(server, "edit", "apple.png", "a green apple")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "pictures/a-green-apple-7.png\n", "")
    assert (tmp_path / "pictures/a-green-apple-7.png").read_bytes() == PNG


async def test_edit_sends_a_form_that_the_server_reads_as_it_was_meant(server: FakeDarkroom) -> None:
    options = "--mask mask.png --strength 0.5 --model sdxl --size 512x768 --steps 9 --guidance 3.5 --scheduler ddim"
    options += " --seed 7 --negative text --lora style@2:0.8 --lora other -n 2 --format webp"
    server.seeds = [7, 8]
    result = darkroom(server, "edit", "apple.png", "ein Apfel, grün", *options.split())
    assert result.stdout.splitlines() == [f"pictures/ein-apfel-grün-{seed}.png" for seed in (7, 8)]
    (request,) = server.sent(*EDITS)
    async with received(request).form() as form:
        assert read_fields(form, max_json_depth=4).model_dump(exclude_unset=True) == {
            "prompt": "ein Apfel, grün",
            "strength": 0.5,
            "model": "sdxl",
            "size": "512x768",
            "num_inference_steps": 9,
            "guidance_scale": 3.5,
            "scheduler": "ddim",
            "seed": 7,
            "negative_prompt": "text",
            "loras": [{"name": "style@2", "scale": 0.8}, {"name": "other"}],
            "n": 2,
            "output_format": "webp",
        }
        files = {name: value for name, value in form.multi_items() if isinstance(value, UploadFile)}
        assert {name: (file.filename, await file.read()) for name, file in files.items()} == {
            "image": ("apple.png", PNG),
            "mask": ("mask.png", MASK),
        }


async def test_what_is_not_asked_is_left_to_the_server(server: FakeDarkroom) -> None:
    assert darkroom(server, "edit", "apple.png", "a cat").exit_code == 0
    (request,) = server.sent(*EDITS)
    async with received(request).form() as form:
        assert list(form) == ["prompt", "image"]


def test_a_picture_that_arrives_damaged_is_not_kept(server: FakeDarkroom, tmp_path: Path) -> None:
    server.stored = PNG[:-1]
    result = darkroom(server, "edit", "apple.png", "a cat")
    assert (result.exit_code, "damaged" in result.stderr) == (1, True)
    assert not (tmp_path / "pictures").exists()


@pytest.mark.parametrize("arguments", [("none.png", "a cat"), (".", "a cat"), ("apple.png", "a cat", "--mask", "no")])
def test_a_file_that_cannot_be_read_is_one_line_and_nothing_is_sent(
    server: FakeDarkroom, arguments: tuple[str, ...]
) -> None:
    result = darkroom(server, "edit", *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("The file cannot be read: ")
    assert len(result.stderr.splitlines()) == 1
    assert server.seen == []


@pytest.mark.parametrize("option", ["--strength", "--guidance"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_what_is_no_finite_number_is_a_usage_error(server: FakeDarkroom, option: str, value: str) -> None:
    assert darkroom(server, "edit", "apple.png", "a cat", option, value).exit_code == 2
    assert server.seen == []


def test_a_prompt_that_is_no_text_is_one_line(server: FakeDarkroom) -> None:
    result = darkroom(server, "edit", "apple.png", "\udcff")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "The request cannot be sent" in result.stderr


# --- when the answer does not come


def raising(error: BaseException) -> Any:
    def answer(_: httpx.Request) -> httpx.Response:
        raise error

    return answer


def test_ctrl_c_while_it_waits_says_that_the_job_may_go_on(server: FakeDarkroom) -> None:
    server.answers[EDITS] = raising(KeyboardInterrupt())
    result = darkroom(server, "edit", "apple.png", "a cat")
    assert (result.exit_code, result.stderr) == (130, f"Stopped waiting. {ORDER_MAY_HAVE_ARRIVED}\n")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (httpx.ReadTimeout("timed out"), "did not answer within 7 s."),
        (httpx.RemoteProtocolError("Server disconnected"), "broke before the answer came (Server disconnected)."),
        (httpx.ReadError("reset by peer"), "broke before the answer came (reset by peer)."),
    ],
)
def test_a_lost_connection_says_so_and_where_to_look(server: FakeDarkroom, error: Exception, words: str) -> None:
    server.answers[EDITS] = raising(error)
    result = darkroom(server, "edit", "apple.png", "a cat", "--timeout", "7")
    assert result.exit_code == 1
    assert result.stderr.endswith(f"{words} {ORDER_MAY_HAVE_ARRIVED}\n")


def test_a_server_that_is_not_there_took_no_order(server: FakeDarkroom) -> None:
    server.answers[EDITS] = raising(httpx.ConnectError("connection refused"))
    result = darkroom(server, "edit", "apple.png", "a cat")
    assert (result.exit_code, "No Darkroom answers" in result.stderr) == (1, True)
    assert ORDER_MAY_HAVE_ARRIVED not in result.stderr


def test_the_answer_is_waited_for_as_long_as_was_said(server: FakeDarkroom) -> None:
    assert darkroom(server, "edit", "apple.png", "a cat", "--timeout", "900").exit_code == 0
    (request,) = server.sent(*EDITS)
    assert request.extensions["timeout"]["read"] == 900


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (400, "invalid_value", "mask must be as large as image, 96x64; it is 64x64."),
        (503, "still_running", "Not finished yet; the job goes on. Ask GET /v1/jobs/job_1."),
        (500, "out_of_memory", "The picture is too large for this GPU. (job job_1)"),
    ],
)
def test_the_servers_words_are_shown_as_they_are(server: FakeDarkroom, status: int, code: str, words: str) -> None:
    server.answers[EDITS] = lambda _: refusal(status, words, code=code, headers={"Retry-After": "30"})
    result = darkroom(server, "edit", "apple.png", "a cat")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", words + "\n")


def test_a_server_that_goes_away_after_its_answer_is_waited_for(server: FakeDarkroom) -> None:
    def unreachable_once(_: httpx.Request) -> httpx.Response:
        del server.answers["GET", "/v1/jobs/job_1"]
        raise httpx.ConnectError("connection refused")

    server.answers["GET", "/v1/jobs/job_1"] = unreachable_once
    assert darkroom(server, "edit", "apple.png", "a cat").stdout == "pictures/a-cat-7.png\n"
