"""Ends what a Darkroom left running. As a program it waits beside the supervisor and sweeps when that one vanishes.

A process is ours if its environment carries our DARKROOM_RUN_ID, or if it belongs to the session of one of our children
and its environment has been painted over, which Ray's agents do when they set their title.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Collection
from pathlib import Path

from serving.embedded.state import RunRecord, StateDir, read_boot_id

RUN_ID_ENV = "DARKROOM_RUN_ID"
SWEEP_TIMEOUT_S = 30.0
GRACE_S = 5.0
FAREWELL = b"done"


def find_processes(run_id: str, sessions: Collection[int]) -> list[int]:
    """Ids of this user's live processes whose run id is `run_id` or starts with `run_id` and a dot."""
    return [pid for pid in _own_pids() if _is_ours(pid, run_id.encode(), sessions)]


def end_processes(run_id: str, sessions: Collection[int], *, grace_s: float = GRACE_S) -> int:
    """SIGTERM, then SIGKILL after `grace_s`, until none is left; returns how many there were. Blocks."""
    ended: set[int] = set()
    started = time.monotonic()
    while (found := find_processes(run_id, sessions)) and time.monotonic() - started < SWEEP_TIMEOUT_S:
        is_time_up = time.monotonic() - started >= grace_s
        for pid in found:
            if is_time_up or pid not in ended:
                _signal(pid, signal.SIGKILL if is_time_up else signal.SIGTERM)
        ended.update(found)
        time.sleep(0.1)
    return len(ended)


def sweep_run(record: RunRecord, *, grace_s: float = GRACE_S) -> int:
    """Ends what is left of a recorded run; after a reboot its process ids belong to others."""
    sessions = record.sessions if record.boot_id == read_boot_id() else []
    return end_processes(record.run_id, sessions, grace_s=grace_s)


def sweep_predecessor(state: StateDir) -> str | None:
    """Ends what a killed Darkroom left in this state folder and clears its traces; says so if there was one."""
    record = state.read_run()
    num_ended = sweep_run(record) if record is not None else 0
    state.forget_run()
    if record is None:
        return None
    left = f"; ended {num_ended} processes that it had left" if num_ended else ""
    return f"The last Darkroom on {state.path} did not stop in order{left}. Its jobs go on."


def _own_pids() -> list[int]:
    uid, me = os.getuid(), os.getpid()
    pids = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() and int(entry.name) != me:
            try:
                if entry.stat().st_uid == uid:
                    pids.append(int(entry.name))
            except OSError:
                continue  # gone meanwhile
    return pids


def _is_ours(pid: int, run_id: bytes, sessions: Collection[int]) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        session = os.getsid(pid)
        # Field 3 of stat, after the name in parentheses. A zombie is dead already; only its parent can remove it.
        is_zombie = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"
    except OSError:
        return False
    if is_zombie:
        return False
    key = RUN_ID_ENV.encode() + b"="
    for variable in environment.split(b"\0"):
        if variable.startswith(key):
            value = variable.removeprefix(key)
            return value == run_id or value.startswith(run_id + b".")
    # Painted over: a true environment does not begin with a zero byte.
    return session in sessions and not environment.lstrip(b" ").split(b"\0", 1)[0]


def _signal(pid: int, signum: signal.Signals) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--run-id", required=True)
    options = parser.parse_args()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    # The supervisor holds the other end: a word means that it has cleaned up, silence and EOF that it was killed.
    if sys.stdin.buffer.read().startswith(FAREWELL):
        return 0
    record = StateDir(options.state_dir).read_run()
    if record is not None and record.run_id == options.run_id:
        sweep_run(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
