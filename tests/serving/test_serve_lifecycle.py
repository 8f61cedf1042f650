"""`darkroom serve` as a process tree: it comes back after every kill -9, and leaves nothing behind, however it ends."""

import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from configs.settings import PROJECT_DIR
from serving.embedded import sweeper
from serving.embedded.state import StateDir

log = logging.getLogger(__name__)

TINY = Path(__file__).with_name("tiny_darkroom.py")
START_TIMEOUT_S = 150.0
RETURN_TIMEOUT_S = 120.0


class Darkroom:
    """One supervisor started as an operator would, on a state folder of its own."""

    def __init__(self, state_dir: Path, port: int) -> None:
        self.state_dir = state_dir
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.output = state_dir.with_suffix(".out")
        self.process: subprocess.Popen[bytes] | None = None
        self.deployer = "deploy"
        self.drain_s = 20
        self.run_id = "not started"

    @property
    def said(self) -> str:
        return self.output.read_text()

    def start(self) -> None:
        started_s = time.monotonic()
        # An empty home, as on a machine that never saw Ray.
        home = self.state_dir.with_suffix(".home")
        home.mkdir(exist_ok=True)
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    str(TINY),
                    "serve",
                    str(self.state_dir),
                    str(self.port),
                    self.deployer,
                    str(self.drain_s),
                ],
                stdout=output,
                stderr=output,
                env={**os.environ, "HOME": str(home)},
                start_new_session=True,
            )
        wait_until(lambda: "is ready" in self.said or self._has_ended(), START_TIMEOUT_S, lambda: self.said)
        assert not self._has_ended(), self.said
        self.run_id = json.loads((self.state_dir / "run.json").read_text())["run_id"]
        log.info("ready after %.1f s", time.monotonic() - started_s)

    def end(self, signum: signal.Signals, *, timeout_s: float = 60.0) -> int:
        assert self.process is not None
        started_s = time.monotonic()
        # As a terminal does it: to the whole process group.
        os.killpg(self.process.pid, signum)
        code = self.process.wait(timeout_s)
        log.info("ended by %s after %.1f s", signum.name, time.monotonic() - started_s)
        return code

    def pids(self) -> list[int]:
        """Whatever carries the run id or names the state folder or the run folder in its command line."""
        marks = (str(self.state_dir), str(StateDir(self.state_dir).run_dir))
        named = [
            process.pid
            for process in psutil.process_iter(["cmdline", "status"])
            if process.info["status"] != psutil.STATUS_ZOMBIE
            and any(mark in part for part in process.info["cmdline"] or () for mark in marks)
        ]
        return sorted({*sweeper.find_processes(self.run_id, []), *named})

    def kill(self, what: str) -> None:
        """SIGKILL to the one process whose command line contains `what`."""
        found = [pid for pid in self.pids() if what in " ".join(psutil.Process(pid).cmdline())]
        assert len(found) == 1, f"{what}: {found}"
        os.kill(found[0], signal.SIGKILL)

    def num_back(self, title: str | None) -> int:
        return self.said.count(f"{title} is back")

    def wait_back(self, title: str, num_before: int) -> float:
        return wait_until(lambda: self.num_back(title) > num_before, RETURN_TIMEOUT_S, lambda: self.said)

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/live", timeout=5).is_success
        except httpx.HTTPError:
            return False

    def _has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None


def wait_until(is_so: Callable[[], bool], timeout_s: float, explain: Callable[[], object]) -> float:
    """Seconds until it was so."""
    started_s = time.monotonic()
    while not is_so():
        assert time.monotonic() - started_s < timeout_s, explain()
        time.sleep(0.2)
    return time.monotonic() - started_s


def rolling_restart(state_dir: Path) -> tuple[int, str]:
    """Exit code of the script, and how what it says begins."""
    command = [sys.executable, str(PROJECT_DIR / "scripts" / "rolling_restart.py"), "--state-dir", str(state_dir)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=RETURN_TIMEOUT_S)
    return ended.returncode, re.split(r" (?:in|on) ", ended.stdout + ended.stderr)[0]


@pytest.fixture
def darkroom(tmp_path: Path) -> Iterator[Darkroom]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tiny = Darkroom(tmp_path / "state", port)
    yield tiny
    if tiny.process is not None and tiny.process.poll() is None:
        tiny.process.kill()
        tiny.process.wait()
    for pid in tiny.pids():
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(StateDir(tiny.state_dir).run_dir, ignore_errors=True)


@pytest.mark.timeout(900)
def test_every_killed_part_comes_back_and_ctrl_c_leaves_nothing(darkroom: Darkroom) -> None:
    darkroom.start()
    for part, title in (
        ("serving.embedded.mongo", "mongo"),
        ("weed mini", "s3"),
        ("serving.embedded.sweeper", None),
        ("ray::ProxyActor", None),
        ("ray::ServeReplica", None),
        ("gcs_server", "ray"),
        ("raylet/raylet", "ray"),
        ("bin/ray start", "ray"),
    ):
        num_back = darkroom.num_back(title)
        darkroom.kill(part)
        if title is not None:
            log.info("%s: supervised again after %.1f s", part, darkroom.wait_back(title, num_back))
        else:
            time.sleep(2.0)  # so that the old answer is not taken for the new one
        answer_s = wait_until(darkroom.answers, RETURN_TIMEOUT_S, lambda: darkroom.said)
        log.info("%s: API answers %.1f s after that", part, answer_s)
    assert "deploying again" not in darkroom.said, "Ray's own store should have brought the application back"

    assert darkroom.end(signal.SIGINT) == 0
    assert darkroom.pids() == []
    assert "nothing is left running" in darkroom.said


@pytest.mark.timeout(600)
def test_killed_supervisor_takes_everything_with_it_and_the_next_start_goes_on(darkroom: Darkroom) -> None:
    darkroom.start()
    kept = {name: (darkroom.state_dir / name).read_text() for name in ("admin-key", "ports.json", "s3-credentials")}
    assert len(darkroom.pids()) > 8
    assert darkroom.end(signal.SIGKILL) == -signal.SIGKILL
    gone_s = wait_until(lambda: darkroom.pids() == [], 15.0, darkroom.pids)
    log.info("nothing left %.1f s after the supervisor was killed", gone_s)

    darkroom.start()
    assert "did not stop in order" in darkroom.said
    assert {name: (darkroom.state_dir / name).read_text() for name in kept} == kept
    assert darkroom.end(signal.SIGTERM) == 0
    assert darkroom.pids() == []


@pytest.mark.timeout(300)
def test_ctrl_c_while_starting_leaves_nothing(darkroom: Darkroom, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as output:
        darkroom.process = subprocess.Popen(
            [sys.executable, str(TINY), "serve", str(darkroom.state_dir), str(darkroom.port), "deploy", "20"],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    wait_until(lambda: (darkroom.state_dir / "run.json").exists(), 60.0, (tmp_path / "out").read_text)
    darkroom.run_id = json.loads((darkroom.state_dir / "run.json").read_text())["run_id"]
    time.sleep(2.0)
    assert darkroom.end(signal.SIGINT) == 0
    assert darkroom.pids() == []


@pytest.mark.timeout(300)
def test_application_that_ray_lost_is_deployed_again(darkroom: Darkroom) -> None:
    darkroom.start()
    # Without its store Ray comes back empty.
    shutil.rmtree(darkroom.state_dir / "gcs")
    darkroom.kill("gcs_server")
    wait_until(lambda: "deploying again" in darkroom.said, RETURN_TIMEOUT_S, lambda: darkroom.said)
    wait_until(darkroom.answers, RETURN_TIMEOUT_S, lambda: darkroom.said)
    assert darkroom.end(signal.SIGINT) == 0
    assert darkroom.pids() == []


@pytest.mark.timeout(300)
def test_failed_deployment_ends_with_its_log_and_leaves_nothing(darkroom: Darkroom) -> None:
    darkroom.deployer = "fail"
    with pytest.raises(AssertionError, match="Deploying failed"):
        darkroom.start()
    assert darkroom.process is not None and darkroom.process.wait(60) == 1
    assert "the deployer says why" in darkroom.said
    assert darkroom.pids() == []


@pytest.mark.timeout(300)
def test_every_replica_is_replaced_while_clients_ask_and_none_is_refused(darkroom: Darkroom) -> None:
    darkroom.start()
    asked, is_over = list[tuple[int, int]](), threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=30) as client:
            while not is_over.is_set():
                answer = client.get(f"{darkroom.url}/health/live")
                asked.append((answer.status_code, answer.json()["pid"]))

    with ThreadPoolExecutor(2) as clients:
        asking = [clients.submit(ask) for _ in range(2)]
        try:
            for _ in range(2):
                assert rolling_restart(darkroom.state_dir) == (0, "Every replica was replaced")
        finally:
            is_over.set()
    for future in asking:
        future.result()
    assert {status for status, _ in asked} == {200}
    assert len({pid for _, pid in asked}) == 3
    assert darkroom.end(signal.SIGINT) == 0
    assert darkroom.pids() == []
    assert rolling_restart(darkroom.state_dir) == (1, "rolling_restart: no Darkroom runs")


@pytest.mark.timeout(300)
def test_what_runs_comes_to_its_end_before_the_server_does(darkroom: Darkroom) -> None:
    darkroom.start()
    assert darkroom.process is not None
    (darkroom.state_dir / "running").write_text("1")
    darkroom.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "Draining" in darkroom.said, 10.0, lambda: darkroom.said)
    # Whoever dies meanwhile is brought back: what runs needs it.
    darkroom.kill("serving.embedded.mongo")
    darkroom.wait_back("mongo", 0)
    assert darkroom.answers()
    (darkroom.state_dir / "running").write_text("0")
    assert darkroom.process.wait(30) == 0
    assert darkroom.pids() == []


@pytest.mark.timeout(300)
def test_a_second_ctrl_c_does_not_wait_for_what_runs(darkroom: Darkroom) -> None:
    darkroom.drain_s = 600
    darkroom.start()
    assert darkroom.process is not None
    (darkroom.state_dir / "running").write_text("1")
    darkroom.process.send_signal(signal.SIGINT)
    wait_until(lambda: "Draining" in darkroom.said, 10.0, lambda: darkroom.said)
    assert darkroom.end(signal.SIGINT) == 0
    assert darkroom.pids() == []
