"""The state folder and the run folder of one Darkroom: who holds them, what lies where, which secrets they keep.

{state_dir}/  version  lock  run.json  roll.json  ports.json  admin-key  ray-token  s3-credentials  effective.yaml
              mongo/  s3/  gcs/  logs/
{tmp}/darkroom-{uid}-{hash}/  mongo.sock  s3.sock  filer.sock  metrics/  ray/
"""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from serving.embedded.problem import StartupProblem

LAYOUT_VERSION = 1
# Ray puts session_<time>_<pid>/sockets/plasma_store below the run folder, and a Unix socket's path ends at 107 bytes.
MAX_RUN_DIR_BYTES = 36
CHANGE_STATE_DIR = "Choose another with --state-dir, DARKROOM_STATE_DIR or `state_dir:` in the settings file."


@dataclass
class RunRecord:
    """What a later start, or the sweeper, has to know to find the processes of this run."""

    run_id: str
    supervisor_pid: int
    boot_id: str
    sessions: list[int] = field(default_factory=list)  # session ids of children that are not cleared away yet


@dataclass(frozen=True)
class RollRecord:
    """How the last rolling restart ended."""

    ended_at: float  # Unix seconds
    took_s: float
    problem: str | None  # None: every replica was replaced


class StateDir:
    """Paths and secrets below one state folder. Creating it takes no lock; `hold` does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_fd: int | None = None
        uid = os.getuid()
        name = f"darkroom-{uid}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
        temp = Path(tempfile.gettempdir()) / name
        self.run_dir = temp if len(os.fsencode(temp)) <= MAX_RUN_DIR_BYTES else Path("/tmp") / name

    @property
    def mongo_socket(self) -> Path:
        return self.run_dir / "mongo.sock"

    @property
    def metrics_dir(self) -> Path:
        return self.run_dir / "metrics"

    @property
    def ray_temp_dir(self) -> Path:
        return self.run_dir / "ray"

    @property
    def ports_path(self) -> Path:
        return self.path / "ports.json"

    @property
    def run_path(self) -> Path:
        return self.path / "run.json"

    @property
    def roll_path(self) -> Path:
        return self.path / "roll.json"

    @property
    def settings_path(self) -> Path:
        return self.path / "effective.yaml"

    @property
    def logs_dir(self) -> Path:
        return self.path / "logs"

    def log_path(self, child: str) -> Path:
        return self.logs_dir / f"{child}.log"

    def hold(self) -> Self:
        """Creates the folders and locks them for this process. Raises StartupProblem if that cannot be."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name in ("mongo", "s3", "s3/master", "gcs"):
                (self.path / name).mkdir(exist_ok=True, mode=0o700)
            self.logs_dir.mkdir(exist_ok=True)
            self._lock()
            self._check_version()
            self._make_run_dir()
        except OSError as error:
            self.release()
            raise StartupProblem(
                f"The state folder {self.path} cannot be used: {error.strerror} ({error.filename}). {CHANGE_STATE_DIR}"
            ) from error
        except StartupProblem:
            self.release()
            raise
        return self

    def holder(self) -> int | None:
        """The process that holds this folder now."""
        try:
            with (self.path / "lock").open(encoding="ascii") as file:
                text = file.read().strip()
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(text) if text.isdecimal() else None
        except OSError:
            return None
        return None

    def release(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def remove_run_dir(self) -> None:
        """Sockets and Ray's own logs: of interest only after something broke. Does nothing unless held."""
        if self._lock_fd is not None:
            shutil.rmtree(self.run_dir, ignore_errors=True)

    def secret(self, name: str, make: Callable[[], str]) -> str:
        """The text of a file that only its owner reads; made on first use."""
        path = self.path / name
        try:
            if text := path.read_text("ascii").strip():
                return text
        except FileNotFoundError:
            pass
        text = make()
        write_private(path, text + "\n")
        return text

    def admin_key(self) -> str:
        return self.secret("admin-key", lambda: f"dk-{secrets.token_urlsafe(32)}")

    def ray_token(self) -> Path:
        """Path of Ray's token. Only hex survives: the dashboard's login field trims nothing."""
        self.secret("ray-token", lambda: secrets.token_hex(32))
        return self.path / "ray-token"

    def read_run(self) -> RunRecord | None:
        try:
            return RunRecord(**json.loads(self.run_path.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def read_roll(self) -> RollRecord | None:
        try:
            return RollRecord(**json.loads(self.roll_path.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def forget_run(self) -> None:
        """Drops what belongs to one run: its record, its metrics, what Ray remembered. A start deploys afresh."""
        self.run_path.unlink(missing_ok=True)
        gcs_dir = self.path / "gcs"
        for path in (gcs_dir, self.ray_temp_dir, self.metrics_dir):
            shutil.rmtree(path, ignore_errors=True)
        for path in (gcs_dir, self.metrics_dir):
            path.mkdir(mode=0o700)

    def _lock(self) -> None:
        path = self.path / "lock"
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(fd, 32).decode("ascii", "replace").strip()
            os.close(fd)
            who = f" (process {holder})" if holder else ""
            raise StartupProblem(
                f"The state folder {self.path} is in use by another Darkroom{who}. Stop that one with "
                f"{f'`kill {holder}`' if holder else 'Ctrl-C'}, or give this one its own. {CHANGE_STATE_DIR}"
            ) from error
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        self._lock_fd = fd

    def _check_version(self) -> None:
        path = self.path / "version"
        try:
            text = path.read_text("ascii").strip()
        except FileNotFoundError:
            path.write_text(f"{LAYOUT_VERSION}\n", "ascii")
            return
        if not text.isdecimal() or int(text) > LAYOUT_VERSION:
            raise StartupProblem(
                f"The state folder {self.path} was written by a newer Darkroom (layout {text or '?'}; this one knows "
                f"{LAYOUT_VERSION}). Update Darkroom, or start afresh elsewhere. {CHANGE_STATE_DIR}"
            )

    def _make_run_dir(self) -> None:
        self.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.run_dir.lstat()
        # The folder lies in a place where everybody may write: another user could have put one there to read along.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) != 0o700:
            raise StartupProblem(f"{self.run_dir} is not a folder of mode 0700 owned by this user; remove it.")


class RunFile:
    """This run's record, written down at every change, where the disk has room for it."""

    def __init__(self, state: StateDir) -> None:
        self.record = RunRecord(uuid.uuid4().hex, os.getpid(), read_boot_id())
        self._state = state
        self._write()

    @property
    def run_id(self) -> str:
        return self.record.run_id

    def add_session(self, session: int) -> None:
        self.record.sessions.append(session)
        self._write()

    def drop_session(self, session: int) -> None:
        """No member is left: from here on the kernel may give this id to anybody."""
        if session in self.record.sessions:
            self.record.sessions.remove(session)
            self._write()

    def close(self) -> None:
        """The run ended in order."""
        self._state.run_path.unlink(missing_ok=True)

    def _write(self) -> None:
        try:
            write_private(self._state.run_path, json.dumps(asdict(self.record)))
        except OSError:
            # A full disk must not end the run. The sweeper knows nearly all processes without it, by their run id.
            return


def write_private(path: Path, text: str) -> None:
    """Replaces `path` in one step by a file of mode 0600."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def read_boot_id() -> str:
    """Changes with every boot: process ids of an earlier one mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
