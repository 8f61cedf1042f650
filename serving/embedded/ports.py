"""Free ports on loopback: picked once, kept in the state folder so that addresses outlive a restart."""

import errno
import json
import random
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

from serving.embedded.problem import StartupProblem

# Below the kernel's range for outgoing connections, so that no client socket sits on a port we keep.
FIRST_PORT, LAST_PORT = 15_000, 32_000
LOOPBACK = "127.0.0.1"


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen there now."""
    try:
        _try_bind(host, port)
    except OSError:
        return False
    return True


def keep_ports(
    path: Path, names: Iterable[str], *, avoid: Iterable[int] = (), twins: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Name → port: what `path` holds where it is still free, else a new one. Writes the result to `path`.

    `twins`: name → distance to a second port that must be free as well.
    """
    kept = load_ports(path)
    used = set(avoid)
    ports: dict[str, int] = {}
    for name in names:
        port = kept.get(name)
        twin = (twins or {}).get(name, 0)
        if port is None or not _are_free(port, twin, used):
            port = _pick(used, twin)
        used |= {port, port + twin}
        ports[name] = port
    path.write_text(json.dumps(ports, indent=1), "utf-8")
    return ports


def load_ports(path: Path) -> dict[str, int]:
    """What `keep_ports` wrote; empty where there is nothing usable."""
    try:
        ports = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): v for k, v in ports.items() if isinstance(v, int)} if isinstance(ports, dict) else {}


def first_free_from(port: int, *, avoid: Iterable[int], num_tries: int = 50) -> int:
    """`port`, or the next free one above it."""
    used = set(avoid)
    for candidate in range(port, min(port + num_tries, 65_536)):
        if candidate not in used and is_free(candidate):
            return candidate
    return _pick(used)


def check_api_address(host: str, port: int) -> None:
    """Raises StartupProblem, in words, if the API could not listen there."""
    change = "Choose another with --port, DARKROOM_PORT or `port:` in the settings file."
    try:
        _try_bind(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartupProblem(f"Port {port} is taken{_owner(port)}. {change}") from error
        if error.errno == errno.EACCES:
            raise StartupProblem(f"Port {port} needs rights that this user lacks (below 1024). {change}") from error
        raise StartupProblem(
            f"Cannot listen on {host!r}: {error.strerror or error}. Choose an address of this machine with --host, "
            "DARKROOM_HOST or `host:` in the settings file."
        ) from error


def _try_bind(host: str, port: int) -> None:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        # Connections of a server that has just stopped linger in TIME_WAIT and are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen(1)


def _are_free(port: int, twin: int, used: set[int]) -> bool:
    return not {port, port + twin} & used and is_free(port) and (not twin or is_free(port + twin))


def _pick(used: set[int], twin: int = 0) -> int:
    for _ in range(1_000):
        port = random.randrange(FIRST_PORT, LAST_PORT)
        if _are_free(port, twin, used):
            return port
    raise StartupProblem(f"No free port between {FIRST_PORT} and {LAST_PORT} on this machine.")


def _owner(port: int) -> str:
    """' by python (process 123)' where the system tells, else nothing."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.Error:
        return ""
    for connection in connections:
        if connection.status != psutil.CONN_LISTEN or connection.pid is None or not connection.laddr:
            continue
        if connection.laddr.port == port:
            try:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
            except psutil.Error:
                return f" by process {connection.pid}"
    return ""
