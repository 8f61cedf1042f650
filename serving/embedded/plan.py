"""From settings and a state folder to what runs: the children, their addresses, and what the deployer is told."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
import yaml
from pydantic import SecretStr

from configs.settings import Settings
from serving.embedded import ray, s3
from serving.embedded.children import ChildSpec, find_program, inherited_environment
from serving.embedded.ports import first_free_from, keep_ports, load_ports
from serving.embedded.probes import http_answers, listens, mongo_answers
from serving.embedded.state import StateDir, write_private

DASHBOARD = "dashboard"


@dataclass(frozen=True)
class Plan:
    """One start: `settings` are effective, so every address in them is set."""

    settings: Settings
    state: StateDir
    children: tuple[ChildSpec, ...]
    deployer_env: Mapping[str, str]
    dashboard_url: str


def effective_settings(settings: Settings) -> Settings:
    """`settings` with the embedded servers' addresses and the admin key filled in where they are not set.

    The same before and after a restart. Makes what is missing in the state folder, but starts nothing.
    """
    state = StateDir(settings.state_dir)
    state.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    changes: dict[str, object] = {}
    if settings.admin_key is None:
        changes["admin_key"] = SecretStr(state.admin_key())
    if settings.mongo.url is None:
        url = f"mongodb://{quote(str(state.mongo_socket), safe='')}/?directConnection=true"
        changes["mongo"] = settings.mongo.model_copy(update={"url": SecretStr(url)})
    if settings.s3.endpoint is None:
        ports = load_ports(state.ports_path)
        if not set(s3.PORT_NAMES) <= ports.keys():
            ports = _keep_ports(settings, state)
        credentials = s3.read_credentials(state.secret("s3-credentials", s3.new_credentials))
        endpoint = f"http://127.0.0.1:{ports['s3.s3']}"
        changes["s3"] = settings.s3.model_copy(
            update={
                "endpoint": endpoint,
                "public_endpoint": settings.s3.public_endpoint or endpoint,
                "access_key": credentials.access_key,
                "secret_key": SecretStr(credentials.secret_key),
            }
        )
    return settings.model_copy(update=changes)


def make_plan(settings: Settings, state: StateDir, client: httpx.AsyncClient) -> Plan:
    """Picks ports and writes what the children read; starts nothing. The state folder must be held."""
    ports = _keep_ports(settings, state)
    dashboard_port = first_free_from(
        settings.ray.dashboard_port or ports["ray.gcs"] + 1, avoid=[settings.port, *ports.values()]
    )
    effective = effective_settings(settings)
    base = inherited_environment()
    children = [_ray_child(settings, state, client, ports=ports, dashboard_port=dashboard_port, base=base)]
    if settings.mongo.url is None:
        children.append(_mongo_child(state, base))
    if settings.s3.endpoint is None:
        children.append(_s3_child(effective, state, client, ports=ports, base=base))
    return Plan(
        settings=effective,
        state=state,
        children=tuple(children),
        deployer_env=_deployer_environment(effective, state, ports=ports, base=base),
        dashboard_url=f"http://127.0.0.1:{dashboard_port}",
    )


def _keep_ports(settings: Settings, state: StateDir) -> dict[str, int]:
    return keep_ports(
        state.ports_path,
        [*s3.PORT_NAMES, *ray.PORT_NAMES],
        avoid=[settings.port, settings.ray.dashboard_port],
        twins={"s3.admin": s3.ADMIN_GRPC_OFFSET},
    )


def _mongo_child(state: StateDir, base: Mapping[str, str]) -> ChildSpec:
    async def is_ready() -> bool:
        return await mongo_answers(state.mongo_socket)

    program = (sys.executable, "-m", "serving.embedded.mongo")
    return ChildSpec(
        name="mongo",
        command=(*program, "--data-dir", str(state.path / "mongo"), "--socket", str(state.mongo_socket)),
        env=base,
        log_path=state.log_path("mongo"),
        is_ready=is_ready,
        is_alive=is_ready,
    )


def _s3_child(
    settings: Settings, state: StateDir, client: httpx.AsyncClient, *, ports: Mapping[str, int], base: Mapping[str, str]
) -> ChildSpec:
    assert settings.s3.access_key and settings.s3.secret_key, "settings are effective"
    credentials = s3.Credentials(settings.s3.access_key, settings.s3.secret_key.get_secret_value())

    async def is_ready() -> bool:
        return await http_answers(client, f"{settings.s3.endpoint}/healthz")

    command = s3.command(
        find_program("weed"),
        data_dir=state.path / "s3",
        run_dir=state.run_dir,
        bucket=settings.s3.bucket,
        ports={name: ports[name] for name in s3.PORT_NAMES},
    )
    return ChildSpec(
        name="s3",
        command=tuple(command),
        env={**base, **s3.environment(credentials)},
        log_path=state.log_path("s3"),
        is_ready=is_ready,
        is_alive=is_ready,
        settle_s=s3.SETTLE_S,
        # Asked to stop it may wait 10 s for its own subscribers; killing it loses nothing that was acknowledged.
        stop_timeout_s=5.0,
    )


def _ray_child(
    settings: Settings,
    state: StateDir,
    client: httpx.AsyncClient,
    *,
    ports: Mapping[str, int],
    dashboard_port: int,
    base: Mapping[str, str],
) -> ChildSpec:
    async def is_ready() -> bool:
        # Asked of the node's agent, the last to come up: it answers once raylet and GCS know each other.
        return await http_answers(client, f"http://127.0.0.1:{ports['ray.agent']}/api/local_raylet_healthz")

    async def is_alive() -> bool:
        return await listens(ports["ray.gcs"]) and await listens(ports["ray.node_manager"])

    command = ray.command(
        find_program("ray"),
        settings=settings.ray,
        temp_dir=state.ray_temp_dir,
        ports={name: ports[name] for name in ray.PORT_NAMES},
        dashboard_port=dashboard_port,
    )
    head_env = ray.head_environment(token_path=state.ray_token(), gcs_dir=state.path / "gcs", ports=ports)
    return ChildSpec(
        name="ray",
        command=tuple(command),
        env={**base, **head_env, "PROMETHEUS_MULTIPROC_DIR": str(state.metrics_dir)},
        log_path=state.log_path("ray"),
        is_ready=is_ready,
        is_alive=is_alive,
        ready_timeout_s=180.0,
        # A port that nobody holds is certain, and `ray start --block` takes seconds to see that a part of it is dead.
        probe_period_s=1.0,
        num_missed_probes=2,
    )


def _deployer_environment(
    settings: Settings, state: StateDir, *, ports: Mapping[str, int], base: Mapping[str, str]
) -> dict[str, str]:
    """Settings as a file, without secrets; the secrets as variables, which only this user can read."""
    tree = settings.model_dump(
        mode="json", exclude={"admin_key": True, "mongo": {"url": True}, "s3": {"secret_key": True}}
    )
    write_private(state.settings_path, yaml.safe_dump(tree, sort_keys=False))
    assert settings.admin_key and settings.mongo.url and settings.s3.secret_key, "settings are effective"
    return {
        **base,
        **ray.client_environment(token_path=state.ray_token(), ports=ports),
        "PROMETHEUS_MULTIPROC_DIR": str(state.metrics_dir),
        "DARKROOM_CONFIG": str(state.settings_path),
        "DARKROOM_ADMIN_KEY": settings.admin_key.get_secret_value(),
        "DARKROOM_MONGO_URL": settings.mongo.url.get_secret_value(),
        "DARKROOM_S3_SECRET_KEY": settings.s3.secret_key.get_secret_value(),
    }


def deployer_command() -> tuple[str, ...]:
    return (sys.executable, "-m", "serving.main")


def admin_key_path(settings: Settings) -> Path | None:
    """Where the key lies that Darkroom made itself."""
    return None if settings.admin_key is not None else Path(os.path.join(settings.state_dir, "admin-key"))
