"""Runs work on bytes that nobody vouches for, or that may break, in a process of its own, bound in time and memory.

Knows nothing of the work: it names a function, hands over JSON and hears JSON. Linux only.
"""

import asyncio
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import structlog

from pipelines.sandboxed import OUT_OF_MEMORY
from pipelines.work import WorkRefused

__all__ = ["Bounds", "WorkKilled", "WorkRefused", "run_apart"]

MAX_LINE_BYTES = 32 * 2**20
MAX_TOLD_BYTES = 2 * MAX_LINE_BYTES  # by one piece of work, all its lines together
MAX_TOLD_LINES = 100_000
STDERR_TAIL_BYTES = 4_096
REAP_TIMEOUT_S = 5.0  # SIGKILL works at once, unless the kernel itself waits for a disk
ROOT = Path(__file__).resolve().parents[1]
# All else stays with us: keys and addresses above all.
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
# Libraries that start a thread for each core would reserve memory for each; the work says itself where threads help.
ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",  # each thread would reserve 64 MB otherwise, of an address space that is bound
}

log = structlog.get_logger("darkroom.sandbox")
OnNews = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one piece of work may use."""

    wall_s: float
    memory_bytes: int | None  # of address space; None: no bound
    file_bytes: int | None  # of any one file that it writes
    max_open_files: int = 128
    niceness: int = 10
    session_niceness: int = 0  # counts instead where the kernel shares its time out between sessions (autogroup)
    environment: Mapping[str, str] = field(default_factory=dict)  # beside and instead of what all work is given

    def for_child(self) -> dict[str, int | None]:
        """What the kernel is to enforce. The CPU limit is a second fence, should we be too busy to kill."""
        num_cores = len(os.sched_getaffinity(0))
        return {
            "memory_bytes": self.memory_bytes,
            "file_bytes": self.file_bytes,
            "cpu_s": math.ceil(self.wall_s * num_cores),
            "max_open_files": self.max_open_files,
            "niceness": self.niceness,
            "session_niceness": self.session_niceness,
        }


class WorkKilled(Exception):
    """The work did not end by itself: it took too long, needed too much memory, or broke."""

    def __init__(self, reason: Literal["time", "memory", "crash"], message: str) -> None:
        super().__init__(message)
        self.reason = reason


async def run_apart(
    work: str, arguments: dict[str, Any], *, bounds: Bounds, on_news: OnNews | None = None
) -> dict[str, Any]:
    """What the function `work`, as "package.module:function", returns for `arguments` in a process of its own.

    arguments["folder"], where there is one, is where it runs and puts its temporary files. Raises WorkRefused as the
    work did, WorkKilled where it did not come to an end. The process and all it started are gone when this is over,
    also when it is cancelled.
    """
    loop = asyncio.get_running_loop()
    folder = str(arguments.get("folder", "/"))
    errand = {"work": work, "arguments": arguments, "bounds": bounds.for_child()}
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    _, talk = await loop.subprocess_exec(
        _Talk,
        *(sys.executable, "-P", "-s", "-X", "faulthandler", "-m", "pipelines.sandboxed", str(os.getpid())),
        cwd=folder,
        env=passed_on | ENVIRONMENT | dict(bounds.environment) | {"TMPDIR": folder},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(bounds.wall_s) as deadline:
            return await talk.hear_out(errand, on_news)
    except TimeoutError as error:
        if not deadline.expired():
            raise
        raise talk.killed("time", f"{work} was not done after {bounds.wall_s:g} s") from error
    finally:
        await talk.end()


class _Talk(asyncio.SubprocessProtocol):
    """The conversation with one child: what it says, cut into lines, and how it ended."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[bytes | None] = asyncio.Queue()  # None: it has nothing more to say
        self._unfinished = bytearray()
        self._num_told_bytes = 0
        self._num_told_lines = 0
        self._stderr = b""
        self._exited = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)  # uvloop's is none by descent

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        assert isinstance(data, bytes)
        if fd == 2:
            self._stderr = (self._stderr + data)[-STDERR_TAIL_BYTES:]
            return
        self._num_told_bytes += len(data)
        self._num_told_lines += data.count(b"\n")
        if self._is_too_much():
            self._lines.put_nowait(None)
            return
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._lines.put_nowait(bytes(self._unfinished) + line)
            self._unfinished.clear()
        self._unfinished += rest

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self._lines.put_nowait(None)

    def process_exited(self) -> None:
        self._exited.set()
        self._kill()  # what it started may hold the pipes open

    async def hear_out(self, errand: dict[str, Any], on_news: OnNews | None) -> dict[str, Any]:
        """Hands over the errand and listens to the last word."""
        stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))
        stdin.write(json.dumps(errand, allow_nan=False).encode() + b"\n")
        stdin.write_eof()
        while (line := await self._lines.get()) is not None:
            match _parse(line):
                case {"news": dict(news)}:
                    if on_news is not None:
                        on_news(news)
                case {"result": dict(result)}:
                    return result
                case {"refused": {"code": str(code), "message": str(message)}}:
                    raise WorkRefused(code, message)
                case _:
                    raise self.killed("crash", "it spoke out of turn")
        if self._is_too_much():
            raise self.killed("crash", "it told more than anybody wants to hear")
        await self._exited.wait()
        raise self._explain(self._transport.get_returncode())

    async def end(self) -> None:
        """Kills what still runs; it is reaped when this returns."""
        if not self._exited.is_set():
            self._kill()
        with suppress(TimeoutError):
            async with asyncio.timeout(REAP_TIMEOUT_S):
                await self._exited.wait()
        self._transport.close()

    def killed(self, reason: Literal["time", "memory", "crash"], message: str) -> WorkKilled:
        """The error, told to the log together with the last that the child printed."""
        log.warning("work_killed", reason=reason, what=message, stderr=self._stderr.decode("utf-8", "replace"))
        return WorkKilled(reason, message)

    def _explain(self, code: int | None) -> WorkKilled:
        if code == OUT_OF_MEMORY:
            return self.killed("memory", "it needed more memory than it may use")
        if code == -signal.SIGKILL:  # and not by us: the system itself ran out of memory
            return self.killed("memory", "it was killed by the system")
        if code == -signal.SIGXCPU:
            return self.killed("time", "it used up its CPU time")
        how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with {code}"
        return self.killed("crash", f"it {how}")

    def _is_too_much(self) -> bool:
        return (
            self._num_told_bytes > MAX_TOLD_BYTES
            or self._num_told_lines > MAX_TOLD_LINES
            or len(self._unfinished) > MAX_LINE_BYTES
        )

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._transport.get_pid(), signal.SIGKILL)


def _parse(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
