"""Work that behaves as badly as work can; its tests run it in the sandbox, nobody imports it."""

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipelines.work import Tell, WorkRefused

MEGABYTE = 2**20


def echo(arguments: dict[str, Any], _tell: Tell) -> dict[str, Any]:
    return arguments


def describe(_arguments: dict[str, Any], _tell: Tell) -> dict[str, Any]:
    """Where it finds itself."""
    return {
        "pid": os.getpid(),
        "session": os.getsid(0),
        "cwd": os.getcwd(),
        "temp": tempfile.gettempdir(),
        "environment": dict(os.environ),
        "niceness": os.nice(0),
        "limits": {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0] for name in LIMITS},
        "modules": sorted(sys.modules),
        "autogroup": autogroup.read_text().strip() if (autogroup := Path("/proc/self/autogroup")).exists() else None,
    }


LIMITS = ("AS", "CPU", "FSIZE", "CORE", "NOFILE")


def count(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    for number in range(arguments["up_to"]):
        tell({"number": number})
    return {}


def print_much(_arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """As C libraries do, past Python's own files."""
    os.write(1, b'{"result": {"forged": true}}\n')
    tell({"told": True})
    sys.stdout.write('{"result": {"forged": true}}\n')
    sys.stdout.flush()
    return {"forged": False}


def refuse(_arguments: dict[str, Any], _tell: Tell) -> dict[str, Any]:
    raise WorkRefused("bad_input", "It is at fault.")


def fail(_arguments: dict[str, Any], _tell: Tell) -> dict[str, Any]:
    raise ArithmeticError("of all things")


def end_early(arguments: dict[str, Any], _tell: Tell) -> dict[str, Any]:
    os._exit(arguments["code"])


def return_no_json(_arguments: dict[str, Any], _tell: Tell) -> dict[str, Any]:
    return {"value": float("nan")}


def speak_out_of_turn(arguments: dict[str, Any], _tell: Tell) -> dict[str, Any]:
    """Looks for the pipe that was hidden from it and writes to that."""
    for fd in range(3, 20):
        try:
            os.write(fd, arguments["words"].encode() + b"\n")
        except OSError:
            continue
    return {}


def return_much(arguments: dict[str, Any], _tell: Tell) -> dict[str, Any]:
    return {"text": "x" * arguments["num_bytes"]}


def allocate(arguments: dict[str, Any], _tell: Tell) -> dict[str, Any]:
    return {"num_bytes": len(bytes(arguments["num_bytes"]))}


def fail_with(arguments: dict[str, Any], _tell: Tell) -> dict[str, Any]:
    held = bytes(arguments["num_bytes"])
    raise RuntimeError(f"Failed to allocate, with {len(held)} bytes at hand")


def fail_as_pytorch_does(arguments: dict[str, Any], _tell: Tell) -> dict[str, Any]:
    class OutOfMemoryError(RuntimeError):
        pass

    kind = OutOfMemoryError if "CUDA" in arguments["words"] else RuntimeError
    raise kind(arguments["words"])


def sleep(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    tell({"pid": os.getpid()})
    time.sleep(arguments["seconds"])
    return {}


def spin(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Uses the CPU; cpu_s stands for what a busy parent does not enforce."""
    tell({"pid": os.getpid()})
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (min(arguments["cpu_s"], hard), hard))
    while True:
        pass


def have_children(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """One that only sleeps, holding all pipes open, and one that ignores what can be ignored."""
    command = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    pids = [os.fork() or _sleep_on() for _ in range(1)]
    pids.append(subprocess.Popen([sys.executable, "-c", command]).pid)
    tell({"pids": [os.getpid(), *pids]})
    match arguments["then"]:
        case "return":
            return {}
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
    return sleep({"seconds": 60}, tell)


def _sleep_on() -> int:
    time.sleep(60)
    os._exit(0)


def write_file(arguments: dict[str, Any], _tell: Tell) -> dict[str, Any]:
    with Path("large").open("wb", buffering=0) as file:
        for _ in range(arguments["num_bytes"] // MEGABYTE):
            file.write(bytes(MEGABYTE))
    return {}


def open_files(arguments: dict[str, Any], _tell: Tell) -> dict[str, Any]:
    return {"num_open": len([os.open("/dev/null", os.O_RDONLY) for _ in range(arguments["num_files"])])}


def crash(_arguments: dict[str, Any], _tell: Tell) -> dict[str, Any]:
    ctypes.string_at(0)
    return {}


def call(arguments: dict[str, Any], _tell: Tell) -> dict[str, Any]:
    with socket.create_connection(("127.0.0.1", arguments["port"]), timeout=5):
        return {}
