"""One `darkroom serve` for a chaos run: started, taken apart process by process, started again, and cleaned up.

Its home is a folder of its own. As root the state folder is a small tmpfs, so that its disk can be filled.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from chaos_stores import GivenStores, OwnStores

from configs.settings import Settings, load_settings
from serving.embedded import sweeper
from serving.embedded.children import TETHER, inherited_environment
from serving.embedded.plan import effective_settings
from serving.embedded.state import StateDir

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 90.0
FIND_TIMEOUT_S = 60.0
POLL_S = 0.2
STATE_BYTES = 2_000_000_000
# Part → what its command line contains, and only its.
PARTS = {
    "engine": "ray::ServeReplica:darkroom:Engine",
    "router": "ray::ServeReplica:darkroom:Router",
    "api": "ray::ServeReplica:darkroom:Api",
    "moderator": "ray::ServeReplica:darkroom:Moderator",
    "frames": "ray::ServeReplica:darkroom:Frames",
    "trainer": "ray::ServeReplica:darkroom:Trainer",
    "proxy": "ray::ProxyActor",
    "controller": "ray::ServeController",
    "raylet": "raylet/raylet",
    "gcs": "gcs_server",
    "mongo": "serving.embedded.mongo",
    "s3": "weed mini",
}
# A training is there while there is work for it: a child of the trainer with a session of its own.
TRAINING, TRAINING_MARK = "training", "pipelines.sandboxed"
CONFIG: dict[str, Any] = {
    # Everything that waits for a clock is quicker, so that a round sees the end of it. Shares hardly fade: they can be
    # compared with what the jobs say.
    "jobs": {
        "lease_s": 4,
        "heartbeat_s": 1,
        "poll_s": 0.5,
        "retry_cap_s": 5,
        "drain_s": 10,
        "sweep_after_s": 10,
        "share_half_life_s": 1e7,
    },
    "webhooks": {
        "timeout_s": 2,
        "lease_s": 5,
        "retry_waits_s": [0, 1, 2, 3, 5, 5, 5, 5, 5, 5],
        "slow_wait_s": 0.5,
        "slow_cap_s": 2,
    },
    # The receiver of webhooks is on this machine.
    "outbound": {"allow": ["127.0.0.0/8"]},
    # Two, so that one can take over from the other while that one is frozen.
    "router": {"num_replicas": 2},
    "models": {"device": "cpu", "dtype": "float32", "num_threads": 2},
    "training": {"checkpoint_s": 2},
}


class ServerTrouble(Exception):
    """The server did not start, or a part of it could not be found; the run cannot go on."""


class DarkroomUnderTest:
    """The process tree, its addresses and its keys."""

    def __init__(self, home: Path, stores: OwnStores | GivenStores | None) -> None:
        self.home = home
        self.stores = stores
        self.state_dir = home / "state"
        self.url = f"http://127.0.0.1:{_free_port()}"
        self.is_on_tmpfs = False
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen: set[int] = set()

    @property
    def lease_s(self) -> float:
        return float(CONFIG["jobs"]["lease_s"])

    @property
    def admin_key(self) -> str:
        return (self.state_dir / "admin-key").read_text("ascii").strip()

    def prepare(self) -> None:
        """Folders and settings; starts nothing."""
        self.state_dir.mkdir(parents=True)
        if os.geteuid() == 0:
            mount = ("mount", "-t", "tmpfs", "-o", f"size={STATE_BYTES},mode=0700", "tmpfs", str(self.state_dir))
            self.is_on_tmpfs = subprocess.run(mount, capture_output=True, timeout=30).returncode == 0
        # A database of its own: given stores may hold other people's.
        config = {**CONFIG, "mongo": {"database": self.home.name}}
        (self.home / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")

    def settings(self) -> Settings:
        """What the server runs with, for looking past its API. External stores are seen without their fault proxies."""
        env = {"DARKROOM_CONFIG": str(self.home / "config.yaml"), "DARKROOM_STATE_DIR": str(self.state_dir)}
        if self.stores is not None:
            env |= self.stores.direct_environment()
        return effective_settings(load_settings(env))

    def start(self) -> None:
        """Spawns `darkroom serve` and returns at once."""
        env = {
            **inherited_environment(),
            "HOME": str(self.home),  # as on a machine that never saw Ray
            "DARKROOM_PORT": self.url.rpartition(":")[2],
            "DARKROOM_STATE_DIR": str(self.state_dir),
            "DARKROOM_CONFIG": str(self.home / "config.yaml"),
            "DARKROOM_DASHBOARD_PORT": "0",
        }
        if self.stores is not None:
            env |= self.stores.environment()
        # Tethered: should this suite be killed, the server ends in order.
        tether = (sys.executable, "-I", "-S", str(TETHER), str(os.getpid()))
        command = (*tether, str(Path(sys.executable).parent / "darkroom"), "serve")
        with (self.home / "serve.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=env, stdout=log, stderr=log, start_new_session=True, cwd=self.home
            )

    def wait_ready(self, *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Until the server calls itself ready and every part has a process. Raises ServerTrouble."""
        deadline_s = time.monotonic() + timeout_s
        while not self._is_ready():
            if self._process is not None and self._process.poll() is not None:
                raise ServerTrouble(f"darkroom serve ended with {self._process.returncode}\n{self.log_tail()}")
            if time.monotonic() > deadline_s:
                raise ServerTrouble(f"not ready after {timeout_s:.0f} s\n{self.log_tail()}")
            time.sleep(POLL_S)

    def find(self, part: str) -> list[psutil.Process]:
        """The processes of a part, once there are any. Raises ServerTrouble when none shows up."""
        deadline_s = time.monotonic() + FIND_TIMEOUT_S
        while not (found := self._parts()[part]):
            if time.monotonic() > deadline_s:
                raise ServerTrouble(f"no process of {part!r} to be found")
            time.sleep(POLL_S)
        return found

    def pids(self) -> list[int]:
        """All processes of this run, the supervisor's own included."""
        record = StateDir(self.state_dir).read_run()
        own = [] if self._process is None or self._process.poll() is not None else [self._process.pid]
        return own if record is None else [*own, *sweeper.find_processes(record.run_id, record.sessions)]

    def freeze(self, process: psutil.Process) -> None:
        self._frozen.add(process.pid)
        os.kill(process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Wakes all that were frozen and still live."""
        while self._frozen:
            _signal(self._frozen.pop(), signal.SIGCONT)

    def kill_all(self) -> None:
        """SIGKILL to the whole tree, supervisor and sweeper first, until nothing of it is left."""
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while found := self.pids():
            for pid in found:
                _signal(pid, signal.SIGKILL)
            if self._process is not None:
                self._process.poll()  # takes the zombie away
            if time.monotonic() > deadline_s:
                raise ServerTrouble(f"still there after SIGKILL: {found}")
            time.sleep(POLL_S)

    def drain(self) -> int:
        """SIGTERM and the end that follows; its exit code. Raises ServerTrouble when it does not come."""
        assert self._process is not None, "start() comes first"
        self._process.terminate()
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise ServerTrouble(f"still there {STOP_TIMEOUT_S:.0f} s after SIGTERM\n{self.log_tail()}") from error

    def clean_up(self) -> None:
        """Ends every process and takes the mount away. What remains of the home are its logs."""
        self.thaw()
        try:
            self.kill_all()
        finally:
            shutil.rmtree(StateDir(self.state_dir).run_dir, ignore_errors=True)
            if (self.state_dir / "logs").is_dir():
                shutil.copytree(self.state_dir / "logs", self.home / "logs", dirs_exist_ok=True)
            if self.is_on_tmpfs:
                # Lazily: a process that the kernel is still taking down must not keep us here.
                subprocess.run(("umount", "--lazy", str(self.state_dir)), check=True, timeout=30)

    def engine_start_s(self) -> float | None:
        """How long the last engine took from its process's start to its model being ready, by its own log."""
        starts = []
        for path in (self.state_dir / "logs").glob("engine-*.log"):
            lines = path.read_text("utf-8", "replace").splitlines()
            starts += [json.loads(line) for line in lines if '"model ready"' in line]
        return max(starts, key=lambda start: start["timestamp"])["start_s"] if starts else None

    def log_tail(self) -> str:
        return (self.home / "serve.log").read_text("utf-8", "replace")[-3_000:]

    def _is_ready(self) -> bool:
        try:
            reply = httpx.get(f"{self.url}/health/ready", timeout=5.0, trust_env=False)
        except httpx.HTTPError:
            return False
        found = self._parts()
        ours = [part for part in PARTS if self.stores is None or part not in {"mongo", "s3"}]
        return (
            reply.status_code == httpx.codes.OK
            and all(found[part] for part in ours)
            and len(found["router"]) == CONFIG["router"]["num_replicas"]
        )

    def _parts(self) -> dict[str, list[psutil.Process]]:
        found: dict[str, list[psutil.Process]] = {part: [] for part in PARTS}
        for pid in sorted(self.pids()):
            try:
                process = psutil.Process(pid)
                line = " ".join(process.cmdline())
            except psutil.NoSuchProcess:
                continue  # gone meanwhile
            for part, mark in PARTS.items():
                if mark in line:
                    found[part].append(process)
        found[TRAINING] = [child for trainer in found["trainer"] for child in _trainings_of(trainer)]
        return found


def _trainings_of(trainer: psutil.Process) -> list[psutil.Process]:
    try:
        return [child for child in trainer.children() if TRAINING_MARK in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []  # gone meanwhile


def _signal(pid: int, signum: signal.Signals) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
