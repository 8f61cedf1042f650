"""Fixtures of the models room: tiny folders, and a real S3 server on free ports."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from models.blobs import BlobStore
from models.errors import BlobError
from tests.models.tiny import make_tiny_flux, make_tiny_sd, make_tiny_sdxl
from tests.models.tiny_flow import make_tiny_qwen_image, make_tiny_sd3, make_tiny_z_image

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
    endpoint: str
    access_key: str
    secret_key: str

    def store(self, bucket: str = "pictures", **options: object) -> BlobStore:
        arguments = {"endpoint": self.endpoint, "access_key": self.access_key, "secret_key": self.secret_key}
        return BlobStore(bucket=bucket, **(arguments | options))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    folder = tmp_path_factory.mktemp("s3")
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
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def blobs(s3_server: S3Server) -> BlobStore:
    return s3_server.store()


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_sd(tmp_path_factory.mktemp("tiny") / "sd")


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_sdxl(tmp_path_factory.mktemp("tiny") / "sdxl")


@pytest.fixture(scope="session")
def tiny_flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_flux(tmp_path_factory.mktemp("tiny") / "flux")


@pytest.fixture(scope="session")
def tiny_sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_sd3(tmp_path_factory.mktemp("tiny") / "sd3")


@pytest.fixture(scope="session", name="tiny_z-image")
def tiny_z_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_z_image(tmp_path_factory.mktemp("tiny") / "z-image")


@pytest.fixture(scope="session", name="tiny_qwen-image")
def tiny_qwen_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_qwen_image(tmp_path_factory.mktemp("tiny") / "qwen-image")


@pytest.fixture
def sd_copy(tiny_sd: Path, tmp_path: Path) -> Path:
    """A folder that a test may spoil."""
    return Path(shutil.copytree(tiny_sd, tmp_path / "sd-copy"))


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
