"""What every room's tests may ask for: the MongoDB that DARKROOM_MONGO_URL names, else an embedded one, and an S3."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from models.blobs import BlobStore
from tests.s3 import S3Server, running_s3

START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 10.0


@pytest.fixture(scope="session")
def mongo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for the whole session, over its socket; tests keep apart by database name."""
    if given := os.environ.get("DARKROOM_MONGO_URL"):
        yield given
        return
    folder = tmp_path_factory.mktemp("mongo")
    socket_path = folder / "m.sock"
    command = [sys.executable, "-m", "serving.embedded.mongo", "--data-dir", str(folder), "--socket", str(socket_path)]
    log_path = folder / "server.log"
    with log_path.open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    url = f"mongodb://{quote(str(socket_path), safe='')}/?directConnection=true"
    try:
        _wait_until_it_answers(url, server, log_path)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server for the whole session; tests keep apart by prefixes of keys."""
    folder = tmp_path_factory.mktemp("s3")
    with running_s3(folder) as server:
        yield server
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def blobs(s3_server: S3Server) -> BlobStore:
    return s3_server.store()


def _wait_until_it_answers(url: str, server: subprocess.Popen[bytes], log_path: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline and server.poll() is None:
        with MongoClient(url, serverSelectionTimeoutMS=500) as client:
            try:
                client.admin.command("ping")
                return
            except PyMongoError:
                time.sleep(0.1)
    pytest.fail(f"the embedded MongoDB did not start:\n{log_path.read_text('utf-8', 'replace')[-2000:]}")
