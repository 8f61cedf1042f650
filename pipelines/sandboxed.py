"""The inside of the sandbox: `python -m pipelines.sandboxed PARENT_PID` binds itself, does one piece of work, ends.

One line of JSON on stdin says what to do; lines of JSON on stdout tell what comes of it. Imports little: every piece of
work waits for this to start.
"""

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import traceback
from contextlib import suppress
from typing import Any

from pipelines.work import Work, WorkRefused

OUT_OF_MEMORY = 71  # exit code
NEARLY_ALL = 0.7  # of its memory: what fails then fails for want of it, since the last wish could be large
PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000


def main() -> None:
    """Does what stdin asks for. Ends without a last word where the work fails; its traceback is on stderr."""
    _leave_network()
    _die_with(int(sys.argv[1]))
    channel_fd = _take_stdout()
    errand = json.loads(sys.stdin.buffer.readline())
    bind(**errand["bounds"])

    def say(message: dict[str, Any]) -> None:
        with open(channel_fd, "wb", closefd=False) as channel:
            channel.write(json.dumps(message, allow_nan=False).encode() + b"\n")

    try:
        work = find_work(errand["work"])
        say({"result": work(errand["arguments"], lambda news: say({"news": news}))})
    except WorkRefused as refusal:
        say({"refused": {"code": refusal.code, "message": str(refusal)}})
    except Exception as error:
        if is_out_of_memory(error, errand["bounds"]["memory_bytes"]):
            traceback.print_exc()
            os._exit(OUT_OF_MEMORY)  # at once: a clean end needs memory too
        raise


def find_work(name: str) -> Work:
    """The function that "package.module:function" names."""
    module, _, function = name.partition(":")
    work: Work = getattr(importlib.import_module(module), function)
    return work


def is_out_of_memory(error: Exception, memory_bytes: int | None) -> bool:
    """Whether it failed for want of memory, of a GPU too."""
    # PyTorch's own words and class, which this process need not have loaded.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        return True
    # Libraries say in words of their own that there is no memory left: an import fails, a decoder, a picture.
    return memory_bytes is not None and peak_bytes() > NEARLY_ALL * memory_bytes


def peak_bytes() -> int:
    """The most address space that this process ever had."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        line = next(line for line in status if line.startswith("VmPeak:"))
    return int(line.split()[1]) * 1024


def bind(
    *,
    memory_bytes: int | None,
    file_bytes: int | None,
    cpu_s: int,
    max_open_files: int,
    niceness: int,
    session_niceness: int,
) -> None:
    """Limits that the kernel holds this process to from here on, and everything that it starts."""
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: max_open_files,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        if value is not None:
            resource.setrlimit(limit, (value, value))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))  # a signal of its own first, then SIGKILL
    os.nice(niceness)
    if session_niceness:
        # Not every kernel has it; there the niceness of the process does.
        with suppress(OSError), open("/proc/self/autogroup", "w", encoding="ascii") as autogroup:
            autogroup.write(str(session_niceness))


def _die_with(parent_pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((PR_SET_PDEATHSIG, signal.SIGKILL), (PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"prctl({option}) failed")
    # The parent may have died before the kernel knew of our wish.
    if os.getppid() != parent_pid:
        sys.exit(1)


def _leave_network() -> None:
    # A second fence for files that name an address: not every kernel and container lets us, so nothing depends on it.
    ctypes.CDLL(None).unshare(CLONE_NEWUSER | CLONE_NEWNET)


def _take_stdout() -> int:
    """The pipe to our parent, kept away from libraries: what they print to stdout goes to stderr."""
    channel_fd = os.dup(1)
    os.dup2(2, 1)
    return channel_fd


if __name__ == "__main__":
    main()
