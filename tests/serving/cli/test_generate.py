"""darkroom generate: what it sends, follows, saves and says."""

import json
from pathlib import Path

import httpx
import pytest

from serving.api.schemas import GenerateImageBody
from serving.cli.client import Client, Connection
from serving.cli.pictures import PictureOrder, StillRunning, follow, save_new, slug
from tests.serving.cli.fake_server import API, KEY, PNG, FakeDarkroom, darkroom, refusal


def test_generate_saves_the_picture_and_prints_its_path_alone_on_stdout(server: FakeDarkroom, tmp_path: Path) -> None:
    result = darkroom(server, "generate", "a red apple")
    assert (result.exit_code, result.stdout) == (0, "pictures/a-red-apple-7.png\n")
    assert (tmp_path / "pictures/a-red-apple-7.png").read_bytes() == PNG


def test_generate_sends_what_was_asked_and_leaves_the_rest_to_the_server(server: FakeDarkroom) -> None:
    options = "--model sdxl --size 512x768 --steps 9 --guidance 3.5 --scheduler ddim --seed 7 --negative text --n 1"
    options += " --format webp"
    assert darkroom(server, "generate", "a cat", *options.split()).exit_code == 0
    assert darkroom(server, "generate", "a cat").exit_code == 0
    full, bare = (json.loads(r.content) for r in server.sent("POST", "/v1/generate/image"))
    assert full == {
        "prompt": "a cat",
        "model": "sdxl",
        "size": "512x768",
        "num_inference_steps": 9,
        "guidance_scale": 3.5,
        "scheduler": "ddim",
        "seed": 7,
        "negative_prompt": "text",
        "n": 1,
        "output_format": "webp",
    }
    assert bare == {"prompt": "a cat"}


def test_a_full_order_is_a_body_that_the_server_takes() -> None:
    order = PictureOrder("a cat", "sdxl", "512x768", 9, 3.5, 7, "text", 2, "webp", [{"name": "a@1", "scale": 0.5}])
    assert GenerateImageBody.model_validate(order.body()).model_dump(exclude_none=True) == order.body()


def test_generate_prints_one_line_per_picture(server: FakeDarkroom, tmp_path: Path) -> None:
    server.seeds = [7, 8]
    result = darkroom(server, "generate", "a red apple", "--n", "2", "--out", str(tmp_path / "out"))
    assert result.stdout.splitlines() == [str(tmp_path / f"out/a-red-apple-{seed}.png") for seed in (7, 8)]


def test_generate_never_overwrites(server: FakeDarkroom, tmp_path: Path) -> None:
    taken = tmp_path / "pictures/a-red-apple-7.png"
    taken.parent.mkdir()
    taken.write_bytes(b"mine")
    result = darkroom(server, "generate", "a red apple")
    assert result.stdout == "pictures/a-red-apple-7-2.png\n"
    assert taken.read_bytes() == b"mine"


def test_generate_leaves_nothing_behind_when_the_bytes_arrive_damaged(server: FakeDarkroom, tmp_path: Path) -> None:
    server.stored = PNG[:-1]
    result = darkroom(server, "generate", "a red apple")
    assert result.exit_code == 1
    assert "damaged" in result.stderr
    assert not list(tmp_path.rglob("*.png"))


def test_a_folder_that_cannot_be_written_is_named(server: FakeDarkroom, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = darkroom(server, "generate", "a red apple", "--out", "file")
    assert result.exit_code == 1
    assert "cannot be saved in file" in result.stderr


def test_a_failed_job_ends_with_its_error_and_exit_code_1(server: FakeDarkroom, tmp_path: Path) -> None:
    server.states = [{"status": "queued", "progress": 0}, {"status": "failed", "progress": 40}]
    server.error = {"code": "out_of_memory", "message": "The picture is too large for this GPU."}
    result = darkroom(server, "generate", "a red apple")
    assert result.exit_code == 1
    assert "Job job_1 failed: The picture is too large for this GPU. (out_of_memory)" in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "pictures").exists()


def test_the_servers_words_on_a_bad_size_are_shown(server: FakeDarkroom) -> None:
    words = "size must be WxH with sides from 64 to 256 in steps of 8; got 7x7."
    server.answers["POST", "/v1/generate/image"] = lambda _: refusal(422, words, code="invalid_value")
    result = darkroom(server, "generate", "a cat", "--size", "7x7")
    assert (result.exit_code, result.stderr.strip()) == (1, words)


@pytest.mark.parametrize("guidance", ["nan", "inf"])
def test_guidance_that_is_no_number_is_refused_here(server: FakeDarkroom, guidance: str) -> None:
    result = darkroom(server, "generate", "a cat", "--guidance", guidance)
    assert result.exit_code == 2
    assert not server.seen


def test_ctrl_c_says_that_the_job_goes_on_and_how_to_see_it(server: FakeDarkroom) -> None:
    def interrupt(_: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    server.answers["GET", "/v1/jobs/job_1"] = interrupt
    result = darkroom(server, "generate", "a red apple")
    assert result.exit_code == 130
    assert "The job goes on; look at it with: darkroom jobs job_1" in result.stderr


# --- following a job


def test_the_watcher_sees_every_state_in_order(server: FakeDarkroom) -> None:
    states: list[tuple[str, int]] = []
    with Client(Connection(API, KEY, ""), transport=server.transport) as client:
        job = follow(client, server.job(), timeout_s=30, watch=lambda j: states.append((j["status"], j["progress"])))
    assert states == [("queued", 0), ("running", 50), ("succeeded", 100)]
    assert job["status"] == "succeeded"


def test_a_server_that_restarts_meanwhile_is_waited_for(server: FakeDarkroom) -> None:
    def cut(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    # What a restarting server shows: nobody there, then a proxy that knows no route yet, then "not ready".
    trouble = [cut, lambda _: httpx.Response(404, text="Path not found"), lambda _: refusal(503, "starting", code="x")]

    def answer(request: httpx.Request) -> httpx.Response:
        if trouble:
            return trouble.pop(0)(request)
        del server.answers["GET", "/v1/jobs/job_1"]
        return server.handle(request)

    server.answers["GET", "/v1/jobs/job_1"] = answer
    assert darkroom(server, "generate", "a red apple").exit_code == 0


def test_a_job_that_is_really_gone_ends_the_wait_at_once(server: FakeDarkroom) -> None:
    server.answers["GET", "/v1/jobs/job_1"] = lambda _: refusal(404, "No such job.", code="not_found")
    result = darkroom(server, "generate", "a red apple")
    assert result.exit_code == 1
    assert "No such job." in result.stderr
    assert len(server.sent("GET", "/v1/jobs/job_1")) == 1


def test_waiting_has_a_deadline_and_names_the_job(server: FakeDarkroom) -> None:
    server.states = [{"status": "running", "progress": 1}]
    with (
        Client(Connection(API, KEY, ""), transport=server.transport) as client,
        pytest.raises(StillRunning, match=r"Waited 0 s.*darkroom jobs job_1"),
    ):
        follow(client, server.job(), timeout_s=0.3, watch=lambda _: None)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red apple", "a-red-apple"),
        ("../../etc/passwd", "etc-passwd"),
        ("  Größe: 5×5 äpfel!  ", "größe-5-5-äpfel"),
        ("🍎", "picture"),
        ("...", "picture"),
        ("x" * 500, "x" * 48),
    ],
)
def test_a_prompt_becomes_a_plain_file_name(prompt: str, expected: str) -> None:
    assert slug(prompt) == expected


def test_a_long_prompt_in_wide_letters_still_fits_a_file_name(tmp_path: Path) -> None:
    path = save_new(tmp_path, f"{slug('赤' * 500)}-{2**63 - 1}", ".png", PNG)
    assert len(path.name.encode()) < 255
    assert path.read_bytes() == PNG
