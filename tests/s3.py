"""A true S3 server of a test session's own: SeaweedFS on free ports, and how to reach it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.blobs import BlobStore
from models.errors import BlobError

PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
    "admin.port",
    "admin.port.grpc",
)
START_DEADLINE_S = 60.0


@dataclass(frozen=True)
class S3Server:
    """Where it answers, and to whom."""

    endpoint: str
    access_key: str
    secret_key: str

    def store(self, bucket: str = "pictures", **options: object) -> BlobStore:
        arguments = {"endpoint": self.endpoint, "access_key": self.access_key, "secret_key": self.secret_key}
        return BlobStore(bucket=bucket, **(arguments | options))


@contextmanager
def running_s3(folder: Path) -> Generator[S3Server, None, None]:
    """The server for as long as the block runs; what it stores lies in `folder`."""
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    server = S3Server(f"http://127.0.0.1:{ports['s3.port']}", "test-access", "test-secret-key")
    command = [
        str(Path(sys.executable).with_name("weed")),
        "mini",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-admin.ui=false",
        "-webdav=false",
        "-master.telemetry=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    env = os.environ | {
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "GOMEMLIMIT": "200MiB",
    }
    log_path = folder / "weed.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until_up(server, process, log_path)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_ports(count: int) -> list[int]:
    """Ports nobody uses now; held together so that they differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]


def _wait_until_up(server: S3Server, process: subprocess.Popen[bytes], log_path: Path) -> None:
    deadline_s = time.monotonic() + START_DEADLINE_S
    store = server.store(timeout_s=3.0)
    while True:
        try:
            store.ensure_bucket()
            store.put("ready", b"1", "text/plain")
            store.delete("ready")
            return
        except BlobError as error:
            if process.poll() is not None or time.monotonic() > deadline_s:
                tail = log_path.read_text(errors="replace")[-3_000:]
                raise RuntimeError(f"the S3 server did not start: {error}\n{tail}") from error
            time.sleep(0.2)
