"""How a Ray head is started for one machine: every port on loopback, every call with a token, GCS kept on disk.

Only the command and its environment; imports no Ray, and the supervisor is who runs it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.settings import RaySettings

PORT_NAMES = tuple(
    f"ray.{part}"
    for part in (
        "gcs",
        "object_manager",
        "node_manager",
        "agent",
        "agent_grpc",
        "runtime_env",
        "metrics",
        "dash_metrics",
    )
)
# Its own log rotation keeps five files of 512 MB for each of dozens of processes.
LOG_FILE_BYTES, NUM_OLD_LOGS = 16_000_000, 1


def command(
    ray: str, *, settings: RaySettings, temp_dir: Path, ports: Mapping[str, int], dashboard_port: int
) -> list[str]:
    port = {name.removeprefix("ray."): number for name, number in ports.items()}
    flags = {
        "node-ip-address": "127.0.0.1",
        "port": port["gcs"],
        "object-manager-port": port["object_manager"],
        "node-manager-port": port["node_manager"],
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard_port,
        "dashboard-agent-listen-port": port["agent"],
        "dashboard-agent-grpc-port": port["agent_grpc"],
        "runtime-env-agent-port": port["runtime_env"],
        "metrics-export-port": port["metrics"],
        # Zero: the kernel picks. The default is a fixed range, in which two Darkrooms of one host would meet.
        "min-worker-port": 0,
        "max-worker-port": 0,
        "include-dashboard": "true",
        "include-log-monitor": "false",
        "object-store-memory": settings.object_store_bytes,
        "num-cpus": settings.num_cpus,
        "temp-dir": temp_dir,
        "log-color": "false",
    }
    named = [f"--{name}={value}" for name, value in flags.items()]
    return [ray, "start", "--head", "--block", "--disable-usage-stats", "--no-monitor", *named]


def client_environment(*, token_path: Path, ports: Mapping[str, int]) -> dict[str, str]:
    """What any program needs to reach this Ray: the deployer, or `ray status` typed by an operator."""
    return {
        "RAY_ADDRESS": f"127.0.0.1:{ports['ray.gcs']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray turns 127.0.0.1 into the machine's outer address and then listens on all interfaces, unless it takes the
        # machine for one that cannot be part of a cluster. This switch says so; its name is history.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


def head_environment(*, token_path: Path, gcs_dir: Path, ports: Mapping[str, int]) -> dict[str, str]:
    shared = client_environment(token_path=token_path, ports=ports)
    del shared["RAY_ADDRESS"]
    return shared | {
        # Applications outlive the death of GCS or raylet: Serve finds its state again and starts its replicas.
        "RAY_gcs_storage": "rocksdb",
        "RAY_gcs_storage_path": str(gcs_dir),
        # Calls between replicas go straight from one to the other: that saves 5 of the 30 ms around the engine.
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
        # A killed proxy is noticed in about 4 s instead of 28.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "3",
        # Ray runs workers at nice 15; here they are the server, not guests beside one.
        "RAY_worker_niceness": "0",
        # There is no other node to move replicas to; draining only makes Ctrl-C take 30 s.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_START_HOOK": f"{__name__}.without_client_server",
        "RAY_ROTATION_MAX_BYTES": str(LOG_FILE_BYTES),
        "RAY_ROTATION_BACKUP_COUNT": str(NUM_OLD_LOGS),
        "DASHBOARD_METRIC_PORT": str(ports["ray.dash_metrics"]),
    }


def without_client_server(ray_params: Any, head: bool) -> None:  # noqa: ANN401 - Ray's own parameter object
    """Called by `ray start` (RAY_START_HOOK): drops the Ray Client server, 50 MB and a fixed port that nobody uses."""
    del head
    ray_params.ray_client_server_port = None
