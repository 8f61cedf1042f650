"""The embedded S3 server: how SeaweedFS's `weed mini` is started, on loopback, with credentials of its own.

Only the command and its environment; who runs it is the supervisor. `-disableHttp` shuts the filer's own web server,
which would hand every object to any local process without a signature; S3 goes on over gRPC.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PORT_NAMES = tuple(
    f"s3.{part}" for part in ("s3", "s3_grpc", "master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc")
) + ("s3.admin",)
# The maintenance worker inside the server looks for the admin's gRPC there, whatever -admin.port.grpc says.
ADMIN_GRPC_OFFSET = 10_000
# Without it the server keeps what large objects made it allocate: 770 MB instead of 120 after 100 MB pictures.
MEMORY_LIMIT = "256MiB"
# It answers its health check before it knows where its volumes are, and whoever reads an object in between gets
# errors for that volume for 5 s. Idle that lasts 0.1 s; with two busy cores one second was not always enough.
SETTLE_S = 3.0


@dataclass(frozen=True)
class Credentials:
    access_key: str
    secret_key: str


def new_credentials() -> str:
    """Text for the credentials file."""
    return json.dumps({"access_key": f"DK{secrets.token_hex(9).upper()}", "secret_key": secrets.token_urlsafe(30)})


def read_credentials(text: str) -> Credentials:
    parsed = json.loads(text)
    return Credentials(parsed["access_key"], parsed["secret_key"])


def command(weed: str, *, data_dir: Path, run_dir: Path, bucket: str, ports: Mapping[str, int]) -> list[str]:
    port = {name.removeprefix("s3."): number for name, number in ports.items()}
    flags = {
        "dir": data_dir,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "s3.port": port["s3"],
        "s3.port.grpc": port["s3_grpc"],
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": run_dir / "s3.sock",
        "master.port": port["master"],
        "master.port.grpc": port["master_grpc"],
        # Named by us: by default it carries the port, and a new port would start from an empty topology.
        "master.dir": data_dir / "master",
        "master.telemetry": "false",
        "volume.port": port["volume"],
        "volume.port.grpc": port["volume_grpc"],
        "filer.port": port["filer"],
        "filer.port.grpc": port["filer_grpc"],
        "filer.localSocket": run_dir / "filer.sock",
        "disableHttp": "true",
        "admin.ui": "false",
        "admin.port": port["admin"],
        "admin.port.grpc": port["admin"] + ADMIN_GRPC_OFFSET,
        "webdav": "false",
        "bucket": bucket,
    }
    return [weed, "mini", *(f"-{name}={value}" for name, value in flags.items())]


def environment(credentials: Credentials) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
        "GOMEMLIMIT": MEMORY_LIMIT,
    }
