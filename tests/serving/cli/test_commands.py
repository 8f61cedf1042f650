"""Where the command connects, what it says when that fails, and its lists."""

import json
import socket
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from serving.cli import app as cli
from serving.cli.client import Connection, find_connection
from tests.serving.cli.fake_server import API, KEY, STORE, FakeDarkroom, darkroom, refusal


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
    darkroom(server, "cancel", "../admin/keys")
    darkroom(server, "retry", "../admin/keys")
    assert [request.url.raw_path for request in server.seen] == [
        b"/v1/jobs/..%2Fadmin%2Fkeys",
        b"/v1/jobs/..%2Fadmin%2Fkeys/cancel",
        b"/v1/jobs/..%2Fadmin%2Fkeys/retry",
    ]


def test_cancel_prints_what_became_of_the_job(server: FakeDarkroom) -> None:
    cancelled = server.job() | {"status": "cancelled"}
    server.answers["POST", "/v1/jobs/job_1/cancel"] = lambda _: httpx.Response(200, json=cancelled)
    result = darkroom(server, "cancel", "job_1")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "cancelled\n", "")


def test_cancel_of_a_job_that_has_ended_shows_the_servers_words(server: FakeDarkroom) -> None:
    words = "The job has ended: it is succeeded."
    server.answers["POST", "/v1/jobs/job_1/cancel"] = lambda _: refusal(409, words, code="job_ended")
    result = darkroom(server, "cancel", "job_1")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", words + "\n")


def test_failed_jobs_are_listed_with_their_reasons(server: FakeDarkroom) -> None:
    server.states = [{"status": "failed", "attempts": 3, "finished_at": None}]
    server.error = {"code": "not_finite", "message": "NaN " * 40}
    server.answers["GET", "/v1/jobs"] = lambda _: httpx.Response(200, json={"object": "list", "data": [server.job()]})
    cells = darkroom(server, "jobs", "--status", "failed").stdout.rstrip("\n").split("\t")
    assert cells[:5] == ["job_1", "", "3", "emoji-3d", "not_finite"]
    assert len(cells[5]) == 80
    assert cells[5].endswith("…")


def test_retry_prints_the_jobs_that_wait_again_and_says_why_others_do_not(server: FakeDarkroom) -> None:
    retried = server.job() | {"status": "queued"}
    server.answers["POST", "/v1/jobs/job_1/retry"] = lambda _: httpx.Response(202, json=retried)
    words = "Only a failed job can be retried; this one is running."
    server.answers["POST", "/v1/jobs/job_2/retry"] = lambda _: refusal(409, words, code="job_not_failed")
    result = darkroom(server, "retry", "job_2", "job_1")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "job_1\n", f"job_2: {words}\n")
    assert darkroom(server, "retry", "job_1").exit_code == 0


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


def test_only_the_named_settings_of_a_tenant_are_changed(server: FakeDarkroom) -> None:
    changed = {"id": "acme", "keep_jobs_s": None, "may_use_high_priority": True, "max_queued": 50}
    server.answers["PATCH", "/v1/admin/tenants/acme"] = lambda _: httpx.Response(200, json=changed)
    words = ("--high-priority", "--max-queued", "50", "--reset", "keep_jobs_s")
    result = darkroom(server, "tenants", "change", "acme", *words)
    assert result.stdout.splitlines() == ["id\tacme", "may_use_high_priority\tyes", "max_queued\t50"]
    sent = json.loads(server.seen[-1].content)
    assert sent == {"may_use_high_priority": True, "max_queued": 50, "keep_jobs_s": None}
    assert darkroom(server, "tenants", "change", "acme", "--reset", "name").exit_code == 2
