"""One Darkroom for the whole test session, started by its own command with an empty state folder."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from configs.settings import CONFIG_DIR

START_DEADLINE_S = 300.0
STOP_DEADLINE_S = 60.0
EXIT_GRACE_S = 2.0


@dataclass(frozen=True)
class Darkroom:
    """Where the server under test is and how to talk to it."""

    url: str
    admin_key: str
    state_dir: Path
    process: subprocess.Popen[bytes]
    env: dict[str, str]

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key or self.admin_key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=120)

    def replica(self, name: str) -> psutil.Process:
        """The process of a Ray Serve replica, such as "Router" or "Engine:emoji-3d"."""
        title = f"ray::ServeReplica:darkroom:{name}"
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                # While a call runs, Ray puts the method's name behind a dot.
                if " ".join(process.cmdline()).strip().partition(".")[0] == title:
                    return process
            except psutil.NoSuchProcess:
                continue
        raise AssertionError(f"no process {title!r}")

    def wait_ready(self, *, deadline_s: float) -> None:
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            try:
                if httpx.get(f"{self.url}/health/ready", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                pass  # not up yet; the deadline decides
            assert self.process.poll() is None, f"darkroom serve ended with {self.process.returncode}"
            time.sleep(0.5)
        raise AssertionError(f"not ready after {deadline_s:.0f} s")


@pytest.fixture(scope="session")
def darkroom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Darkroom]:
    with running_darkroom(tmp_path_factory.mktemp("home")) as server:
        yield server


@contextmanager
def running_darkroom(home: Path, *options: str) -> Iterator[Darkroom]:
    """`darkroom serve` in an empty home; after it, no process may be left."""
    state_dir = home / "state"
    log_path = home / "serve.log"
    port = free_port()
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "DARKROOM_PORT": str(port),
        "DARKROOM_STATE_DIR": str(state_dir),
        "DARKROOM_CONFIG": str(CONFIG_DIR / "test.yaml"),
        "DARKROOM_DASHBOARD_PORT": "0",
    }
    command = [str(Path(sys.executable).parent / "darkroom"), "serve", *options]
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True, cwd=home)
    url = f"http://127.0.0.1:{port}"
    try:
        server = Darkroom(url, "", state_dir, process, env)
        server.wait_ready(deadline_s=START_DEADLINE_S)
        yield Darkroom(url, (state_dir / "admin-key").read_text().strip(), state_dir, process, env)
    except AssertionError as error:
        raise AssertionError(f"{error}\n--- its output:\n{log_path.read_text()[-4000:]}") from error
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_DEADLINE_S)
        finally:
            process.kill()
            left = still_alive(family)
            for straggler in left:
                straggler.kill()
    assert not left, f"left running: {left}"


def still_alive(family: list[psutil.Process]) -> list[psutil.Process]:
    """Those that live on. What was killed takes the kernel a moment to take down; a zombie only waits to be reaped."""
    end = time.monotonic() + EXIT_GRACE_S
    while left := [p for p in family if p.is_running() and not is_zombie(p)]:
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    return left


def is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)
