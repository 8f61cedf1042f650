"""Before anything starts: clear words for a port or a folder that cannot be used; secrets and ports that stay."""

import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import httpx
import pytest
import yaml
from rich.console import Console

from configs.settings import MongoSettings, S3Settings, Settings, load_settings
from serving.embedded import s3, supervisor, sweeper
from serving.embedded.plan import effective_settings, make_plan
from serving.embedded.ports import keep_ports
from serving.embedded.problem import StartupProblem
from serving.embedded.screen import Screen
from serving.embedded.state import RunRecord, StateDir, read_boot_id


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def serve(settings: Settings) -> tuple[int, str]:
    """Exit code and words of a start that is refused; the deployer would fail, were it reached."""
    words = StringIO()
    code = supervisor.run(
        settings, deployer=("/bin/false",), screen=Screen(Console(file=words, width=1_000, soft_wrap=True))
    )
    return code, words.getvalue()


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = Settings(state_dir=tmp_path / "state", port=free_port())
    yield settings
    shutil.rmtree(StateDir(settings.state_dir).run_dir, ignore_errors=True)


def test_port_taken_names_its_owner_and_the_setting(settings: Settings) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", settings.port))
        server.listen()
        code, words = serve(settings)
    assert code == 2
    assert not StateDir(settings.state_dir).run_dir.exists(), "a refused start leaves nothing in the temporary folder"
    assert f"Port {settings.port} is taken by " in words
    assert "DARKROOM_PORT" in words


def test_foreign_address_is_told_apart_from_a_taken_port(settings: Settings) -> None:
    code, words = serve(settings.model_copy(update={"host": "192.0.2.77"}))
    assert code == 2
    assert "Cannot listen on '192.0.2.77'" in words and "DARKROOM_HOST" in words


def test_state_folder_of_a_live_darkroom_is_refused(settings: Settings) -> None:
    holder = StateDir(settings.state_dir).hold()
    try:
        code, words = serve(settings)
    finally:
        holder.release()
    assert code == 2
    assert "in use by another Darkroom (process " in words and "DARKROOM_STATE_DIR" in words


def test_lock_ends_with_its_holder(settings: Settings) -> None:
    StateDir(settings.state_dir).hold().release()
    StateDir(settings.state_dir).hold().release()


def test_state_folder_of_a_newer_version_is_left_alone(settings: Settings) -> None:
    settings.state_dir.mkdir()
    (settings.state_dir / "version").write_text("7\n")
    code, words = serve(settings)
    assert code == 2
    assert "written by a newer Darkroom (layout 7; this one knows 1)" in words


def test_state_folder_that_is_a_file_is_said_so(settings: Settings) -> None:
    settings.state_dir.write_text("")
    code, words = serve(settings)
    assert code == 2
    assert "cannot be used: File exists" in words


def test_run_folder_that_others_can_read_is_refused(settings: Settings) -> None:
    state = StateDir(settings.state_dir)
    state.run_dir.mkdir(mode=0o755)
    try:
        with pytest.raises(StartupProblem, match="mode 0700"):
            state.hold()
    finally:
        state.run_dir.rmdir()


def test_socket_paths_stay_short_enough_for_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 80)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    state = StateDir(tmp_path / "state")
    plasma = state.ray_temp_dir / "session_2026-01-01_00-00-00_000000_4194304" / "sockets" / "plasma_store"
    assert len(str(plasma)) <= 107 and len(str(state.mongo_socket)) <= 107


def test_secrets_are_made_once_and_private(settings: Settings) -> None:
    first, second = effective_settings(settings), effective_settings(settings)
    assert first == second
    assert first.admin_key is not None and first.admin_key.get_secret_value().startswith("dk-")
    for name in ("admin-key", "s3-credentials"):
        assert stat.S_IMODE((settings.state_dir / name).stat().st_mode) == 0o600


def test_addresses_that_are_set_are_kept(settings: Settings) -> None:
    own = Settings.model_validate(
        {
            "state_dir": settings.state_dir,
            "admin_key": "mine",
            "mongo": {"url": "mongodb://db.example/"},
            "s3": {"endpoint": "https://s3.example", "access_key": "a", "secret_key": "b"},
        }
    )
    assert effective_settings(own) == own


def test_another_bucket_or_database_goes_to_the_embedded_servers_too(settings: Settings) -> None:
    own = settings.model_copy(update={"mongo": MongoSettings(database="other"), "s3": S3Settings(bucket="pictures")})
    effective = effective_settings(own)
    assert (effective.mongo.database, effective.s3.bucket) == ("other", "pictures")
    assert effective.mongo.url is not None and effective.s3.endpoint is not None


def test_settings_survive_the_way_to_the_deployer_without_secrets_on_disk(settings: Settings) -> None:
    chosen = Settings.model_validate({**settings.model_dump(), "models": {"dirs": {"sdxl": "weights/sdxl"}}})
    state = StateDir(chosen.state_dir).hold()
    try:
        plan = make_plan(chosen, state, httpx.AsyncClient())
    finally:
        state.release()
    variables = {k: v for k, v in plan.deployer_env.items() if k.startswith("DARKROOM_")}
    assert load_settings(variables) == plan.settings
    text = state.settings_path.read_text()
    assert plan.settings.s3.secret_key is not None
    assert plan.settings.s3.secret_key.get_secret_value() not in text
    assert "secret_key" not in yaml.safe_load(text)["s3"]


def test_ports_stay_unless_taken(tmp_path: Path) -> None:
    first = keep_ports(tmp_path / "ports.json", s3.PORT_NAMES)
    assert keep_ports(tmp_path / "ports.json", s3.PORT_NAMES) == first
    with socket.socket() as server:
        server.bind(("127.0.0.1", first["s3.s3"]))
        server.listen()
        second = keep_ports(tmp_path / "ports.json", s3.PORT_NAMES)
    assert second["s3.s3"] != first["s3.s3"]
    assert {k: v for k, v in second.items() if k != "s3.s3"} == {k: v for k, v in first.items() if k != "s3.s3"}


def test_broken_ports_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text("{")
    assert set(keep_ports(tmp_path / "ports.json", ["a"])) == {"a"}


def test_sweep_ends_its_run_and_no_other() -> None:
    def start(run_id: str) -> subprocess.Popen[bytes]:
        program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
        return subprocess.Popen([sys.executable, "-c", program], env={sweeper.RUN_ID_ENV: run_id})

    ours, child_of_ours, foreign = start("test-run"), start("test-run.ray"), start("test-run-2")
    try:
        deadline = time.monotonic() + 10
        while len(sweeper.find_processes("test-run", [])) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        record = RunRecord("test-run", 1, read_boot_id())
        assert sweeper.sweep_run(record, grace_s=0.3) == 2
        assert ours.wait(5) < 0 and child_of_ours.wait(5) < 0
        assert foreign.poll() is None
    finally:
        for process in (ours, child_of_ours, foreign):
            process.kill()
            process.wait()


def test_process_that_painted_over_its_environment_is_known_by_its_session() -> None:
    # What setproctitle does: zeros over the start of the environment, whose address is field 50 of stat.
    paint = (
        "import ctypes, pathlib, time;"
        "start = int(pathlib.Path('/proc/self/stat').read_text().rpartition(')')[2].split()[47]);"
        "ctypes.memset(start, 0, 64); print('painted', flush=True); time.sleep(60)"
    )
    painted = subprocess.Popen(
        [sys.executable, "-c", paint],
        env={sweeper.RUN_ID_ENV: "test-run.ray", "MORE": "x" * 200},
        start_new_session=True,
        stdout=subprocess.PIPE,
    )
    try:
        assert painted.stdout is not None and painted.stdout.readline() == b"painted\n"
        assert sweeper.find_processes("test-run", []) == []
        assert sweeper.find_processes("test-run", [painted.pid]) == [painted.pid]
    finally:
        painted.kill()
        painted.communicate()


def test_foreign_process_is_spared_even_if_it_got_the_number_of_an_old_session() -> None:
    foreign = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={"HOME": "/"}, start_new_session=True
    )
    try:
        time.sleep(0.3)
        assert sweeper.find_processes("test-run", [foreign.pid]) == []
    finally:
        foreign.kill()
        foreign.wait()


def test_sessions_of_an_earlier_boot_are_not_ours() -> None:
    record = RunRecord("no-such-run", 1, "another boot", sessions=[1])
    assert sweeper.sweep_run(record) == 0
