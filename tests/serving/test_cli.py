"""The `darkroom` command against a fake server that speaks the public API: what it sends, prints, saves and says."""

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from configs.settings import Settings
from serving.api.schemas import GenerateImageBody
from serving.cli import app as cli
from serving.cli.client import Client, Connection, find_connection
from serving.cli.pictures import PictureOrder, StillRunning, follow, save_new, slug
from serving.cli.serve import build_settings, first_picture

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(64))
KEY = "dr-test-key"
API = "http://api.test"
STORE = "http://s3.test"


class FakeDarkroom:
    """One job that takes `states` polls to end; every request is kept in `seen`."""

    def __init__(self) -> None:
        self.seen: list[httpx.Request] = []
        self.states: list[dict] = [
            {"status": "queued", "progress": 0, "queue_position": 2},
            {"status": "running", "progress": 50},
            {"status": "succeeded", "progress": 100},
        ]
        self.seeds = [7]
        self.error: dict | None = None
        self.stored = PNG
        self.answers: dict[tuple[str, str], Callable[[httpx.Request], httpx.Response]] = {}

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.handle)

    def sent(self, method: str, path: str) -> list[httpx.Request]:
        return [r for r in self.seen if (r.method, r.url.path) == (method, path)]

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        if request.url.host == "s3.test":
            # As S3 does: a pre-signed URL together with an Authorization header is refused.
            return httpx.Response(400 if "Authorization" in request.headers else 200, content=self.stored)
        if answer := self.answers.get((request.method, request.url.path)):
            return answer(request)
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return refusal(401, "Incorrect API key provided.", code="invalid_api_key")
        if (request.method, request.url.path) == ("POST", "/v1/generate/image"):
            return httpx.Response(202, json=self.job())
        if (request.method, request.url.path) == ("GET", "/v1/jobs/job_1"):
            if len(self.states) > 1:
                self.states.pop(0)
            return httpx.Response(200, json=self.job())
        return refusal(404, "No such route.", code="not_found")

    def job(self) -> dict:
        job = {"id": "job_1", "object": "job", "kind": "image", "model": "emoji-3d", "created_at": 1_700_000_000}
        job |= {"request": {"prompt": "a red apple"}, "error": self.error, "result": None, **self.states[0]}
        if job["status"] == "succeeded":
            sha256 = hashlib.sha256(PNG).hexdigest()
            image = {"width": 64, "height": 64, "content_type": "image/png", "bytes": len(PNG), "sha256": sha256}
            images = [image | {"url": f"{STORE}/{seed}.png?X-Amz-Signature=x", "seed": seed} for seed in self.seeds]
            job["result"] = {"images": images, "inference_time_s": 0.5}
        return job


def refusal(status: int, message: str, *, code: str, headers: dict[str, str] | None = None) -> httpx.Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return httpx.Response(status, json={"error": error}, headers=headers)


@pytest.fixture
def server() -> FakeDarkroom:
    return FakeDarkroom()


@pytest.fixture(autouse=True)
def _own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable and no state folder of whoever runs the tests."""
    for name in os.environ:
        if name.startswith("DARKROOM_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def darkroom(server: FakeDarkroom, *args: str, url: str = API, key: str | None = KEY) -> Result:
    given = ["--url", url, *(["--key", key] if key else [])]
    return CliRunner().invoke(cli.app, [*args, *given], obj=server.transport)


# --- generate


def test_generate_saves_the_picture_and_prints_its_path_alone_on_stdout(server: FakeDarkroom, tmp_path: Path) -> None:
    result = darkroom(server, "generate", "a red apple")
    assert (result.exit_code, result.stdout) == (0, "pictures/a-red-apple-7.png\n")
    assert (tmp_path / "pictures/a-red-apple-7.png").read_bytes() == PNG


def test_generate_sends_what_was_asked_and_leaves_the_rest_to_the_server(server: FakeDarkroom) -> None:
    options = "--model sdxl --size 512x768 --steps 9 --guidance 3.5 --seed 7 --negative text --n 1 --format webp"
    assert darkroom(server, "generate", "a cat", *options.split()).exit_code == 0
    assert darkroom(server, "generate", "a cat").exit_code == 0
    full, bare = (json.loads(r.content) for r in server.sent("POST", "/v1/generate/image"))
    assert full == {
        "prompt": "a cat",
        "model": "sdxl",
        "size": "512x768",
        "num_inference_steps": 9,
        "guidance_scale": 3.5,
        "seed": 7,
        "negative_prompt": "text",
        "n": 1,
        "output_format": "webp",
    }
    assert bare == {"prompt": "a cat"}


def test_a_full_order_is_a_body_that_the_server_takes() -> None:
    order = PictureOrder("a cat", "sdxl", "512x768", 9, 3.5, 7, "text", 2, "webp")
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


# --- where to connect, and what to say when that fails


def test_a_wrong_key_says_which_key_and_where_the_right_one_is(server: FakeDarkroom) -> None:
    result = darkroom(server, "models", key="wrong")
    assert result.exit_code == 1
    assert "does not accept the API key: Incorrect API key provided." in result.stderr
    assert "--key or DARKROOM_API_KEY" in result.stderr
    assert "wrong" not in result.stderr


def test_no_key_at_all_says_how_to_give_one(server: FakeDarkroom) -> None:
    result = darkroom(server, "models", key=None)
    assert result.exit_code == 1
    assert "there is none. Pass --key or set DARKROOM_API_KEY" in result.stderr
    assert "admin-key" in result.stderr


def test_nobody_listening_says_how_to_start_one() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else gets the port
        url = f"http://127.0.0.1:{holder.getsockname()[1]}"
        result = CliRunner().invoke(cli.app, ["generate", "a cat", "--url", url, "--key", KEY])
    assert result.exit_code == 1
    assert f"No Darkroom answers at {url}" in result.stderr
    assert "darkroom serve" in result.stderr


@pytest.mark.parametrize(
    ("status", "words"), [(429, "takes no more for now: full Try again in 9 s."), (503, f"{API}/health/ready")]
)
def test_busy_and_starting_servers_say_when_to_try_again(server: FakeDarkroom, status: int, words: str) -> None:
    headers = {"Retry-After": "9"}
    server.answers["GET", "/v1/models"] = lambda _: refusal(status, "full", code="x", headers=headers)
    result = darkroom(server, "models")
    assert result.exit_code == 1
    assert words in result.stderr
    assert "Try again in 9 s." in result.stderr


def test_something_else_than_darkroom_is_recognised(server: FakeDarkroom) -> None:
    server.answers["GET", "/v1/models"] = lambda _: httpx.Response(200, html="<p>It works!</p>")
    assert "does not speak Darkroom's API" in darkroom(server, "models").stderr
    server.answers["GET", "/v1/models"] = lambda _: httpx.Response(404, html="<p>Not here</p>")
    assert "is that a Darkroom" in darkroom(server, "models").stderr


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", "http://x:99999"])
def test_an_address_that_is_none_is_told_from_a_server_that_is_down(server: FakeDarkroom, url: str) -> None:
    result = darkroom(server, "models", url=url)
    assert result.exit_code == 1
    assert "is not an address" in result.stderr


def test_the_local_admin_key_is_found_and_stays_on_this_machine(tmp_path: Path) -> None:
    (tmp_path / "admin-key").write_text("dr-admin\n")
    env = {"DARKROOM_STATE_DIR": str(tmp_path), "DARKROOM_PORT": "8123"}
    assert find_connection(None, None, env=env) == Connection("http://127.0.0.1:8123", "dr-admin", _any_help(env))
    assert find_connection("http://localhost:9000/", None, env=env).key == "dr-admin"
    assert find_connection("https://elsewhere.test", None, env=env).key is None
    assert find_connection("https://elsewhere.test", "mine", env=env).key == "mine"
    assert find_connection(None, None, env=env | {"DARKROOM_PUBLIC_URL": "https://dr.test"}).key == "dr-admin"


def _any_help(env: dict[str, str]) -> str:
    return find_connection("https://elsewhere.test", None, env=env).key_help


def test_the_key_is_not_in_the_connections_repr() -> None:
    assert KEY not in repr(Connection(API, KEY, ""))


def test_broken_settings_are_one_line_and_exit_code_2(server: FakeDarkroom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_PROT", "8000")
    result = darkroom(server, "models", key=None)
    assert result.exit_code == 2
    assert result.stderr.startswith("unknown environment variable DARKROOM_PROT")
    assert len(result.stderr.splitlines()) == 1


def test_control_characters_from_the_server_do_not_reach_the_terminal(server: FakeDarkroom) -> None:
    server.answers["GET", "/v1/models"] = lambda _: refusal(400, "\x1b]0;owned\x07 [red]no[/red]", code="x")
    assert darkroom(server, "models").stderr == "]0;owned [red]no[/red]\n"


# --- lists, keys, tenants


def test_lists_are_tab_separated_when_stdout_is_no_terminal(server: FakeDarkroom) -> None:
    server.answers["GET", "/v1/jobs"] = lambda _: httpx.Response(200, json={"object": "list", "data": [server.job()]})
    result = darkroom(server, "jobs", "--status", "queued", "--limit", "5")
    assert dict(server.seen[-1].url.params) == {"status": "queued", "limit": "5"}
    cells = result.stdout.rstrip("\n").split("\t")
    assert cells[:5] == ["job_1", "queued, 2 before it", "0", "image", "emoji-3d"]
    assert cells[-1] == "a red apple"


def test_models_are_listed_with_what_they_offer(server: FakeDarkroom) -> None:
    model = {
        "id": "emoji-3d",
        "kind": "image",
        "family": "sd",
        "ready": True,
        "license": "MIT",
        "sizes": ["64x64", "8x8"],
    }
    server.answers["GET", "/v1/models"] = lambda _: httpx.Response(200, json={"object": "list", "data": [model]})
    assert darkroom(server, "models").stdout == "emoji-3d\timage\tsd\tyes\tMIT\t64x64 8x8\n"


def test_one_job_is_shown_in_full(server: FakeDarkroom) -> None:
    server.states = [{"status": "succeeded", "progress": 100}]
    lines = dict(line.split("\t") for line in darkroom(server, "jobs", "job_1").stdout.splitlines())
    assert lines["status"] == "succeeded"
    assert lines["request.prompt"] == "a red apple"
    assert lines["image.1"].startswith(STORE)


def test_an_id_cannot_climb_to_another_route(server: FakeDarkroom) -> None:
    darkroom(server, "jobs", "../admin/keys")
    assert server.seen[-1].url.raw_path == b"/v1/jobs/..%2Fadmin%2Fkeys"


def test_a_new_key_is_alone_on_stdout(server: FakeDarkroom) -> None:
    made = {"id": "key_1", "object": "api_key", "name": "ci", "role": "admin", "tenant": "acme", "key": "dr-secret"}
    server.answers["POST", "/v1/admin/keys"] = lambda _: httpx.Response(201, json=made | {"created_at": 1})
    result = darkroom(server, "keys", "create", "ci", "--role", "admin", "--tenant", "acme")
    assert result.stdout == "dr-secret\n"
    assert "cannot be shown again" in result.stderr
    assert json.loads(server.seen[-1].content) == {"name": "ci", "role": "admin", "tenant": "acme"}


def test_keys_and_tenants_are_listed_made_and_revoked(server: FakeDarkroom) -> None:
    key = {"id": "key_1", "name": "ci", "role": "member", "tenant": "acme", "last_four": "ab12", "created_at": 1}
    server.answers |= {
        ("GET", "/v1/admin/keys"): lambda _: httpx.Response(200, json={"object": "list", "data": [key]}),
        ("DELETE", "/v1/admin/keys/key_1"): lambda _: httpx.Response(200, json={"id": "key_1", "deleted": True}),
        ("GET", "/v1/admin/tenants"): lambda _: httpx.Response(200, json={"object": "list", "data": []}),
        ("POST", "/v1/admin/tenants"): lambda r: httpx.Response(201, json=json.loads(r.content) | {"object": "tenant"}),
    }
    assert darkroom(server, "keys", "list").stdout.split("\t")[:5] == ["key_1", "ci", "member", "acme", "…ab12"]
    assert darkroom(server, "keys", "revoke", "key_1", "--tenant", "acme").exit_code == 0
    assert dict(server.seen[-1].url.params) == {"tenant": "acme"}
    assert darkroom(server, "tenants", "list").stderr == "No tenants.\n"
    assert darkroom(server, "tenants", "create", "acme", "--name", "Acme Ltd").stdout == "acme\n"


# --- serve


def _settings(**options: object) -> Settings:
    nothing = {"models": (), "model_dirs": (), "config": None, "host": None, "port": None, "state_dir": None, "env": {}}
    return build_settings(**{**nothing, **options})


def test_options_go_over_variables_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("host: 127.0.0.2\nport: 1\nmodels: {enabled: [sdxl], default_image: sdxl, dirs: {sdxl: /a}}\n")
    env = {"DARKROOM_PORT": "2", "DARKROOM_HOST": "127.0.0.3"}
    settings = _settings(config=config, env=env, port=3, models=["emoji-3d"], model_dirs=["sdxl=/b"])
    assert (settings.host, settings.port) == ("127.0.0.3", 3)
    assert settings.models.enabled == ("emoji-3d",)
    assert settings.default_image_model == "emoji-3d"
    assert settings.models.dirs == {"sdxl": Path("/b")}


def test_serve_hands_its_settings_to_the_supervisor_and_ends_with_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Settings, object]] = []

    def run(settings: Settings, *, first_picture: object) -> int:
        calls.append((settings, first_picture))
        return 3

    monkeypatch.setattr(cli.supervisor, "run", run)
    runner = CliRunner()
    assert runner.invoke(cli.app, ["serve", "--port", "8123", "--state-dir", "here"]).exit_code == 3
    assert runner.invoke(cli.app, ["serve", "--first-picture", "a red apple"]).exit_code == 3
    (plain, no_picture), (_, picture) = calls
    assert (plain.port, plain.state_dir, no_picture) == (8123, Path("here").resolve(), None)
    assert callable(picture)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model", "dall-e"], "'dall-e' does not exist. Available: "),
        (["--model-dir", "dall-e=/x"], "'dall-e' does not exist. Available: "),
        (["--model-dir", "/x"], "expected MODEL=FOLDER"),
        (["--port", "0"], "port: "),
        (["--config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_serve_refuses_what_it_cannot_start_with_one_line(args: list[str], words: str) -> None:
    result = CliRunner().invoke(cli.app, ["serve", *args])
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_first_picture_failing_is_said_and_leaves_the_server_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        first_picture(_settings(port=holder.getsockname()[1]), "a red apple")()
    assert "The first picture could not be made: No Darkroom answers" in capsys.readouterr().err


def test_the_command_starts_without_torch_ray_or_a_database_driver() -> None:
    code = "import serving.cli, sys; print(*sorted({'torch', 'ray', 'pymongo', 'diffusers'} & set(sys.modules)))"
    root = Path(cli.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "")


# --- file names


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
