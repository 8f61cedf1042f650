"""The embedded MongoDB as a real process: the driver's view over the Unix socket, durability, a clean end."""

import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from pymongo import AsyncMongoClient, ReturnDocument

from serving.embedded.probes import mongo_answers


class MongoProcess:
    def __init__(self, data_dir: Path, socket: Path) -> None:
        self.data_dir = data_dir
        self.socket = socket
        self.url = f"mongodb://{quote(str(socket), safe='')}/?directConnection=true"
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        command = [sys.executable, "-m", "serving.embedded.mongo", "--data-dir", str(self.data_dir)]
        self.process = subprocess.Popen([*command, "--socket", str(self.socket)])  # noqa: ASYNC220 - a moment
        deadline = time.monotonic() + 30
        while not await mongo_answers(self.socket):
            assert self.process.poll() is None and time.monotonic() < deadline, "the server did not come up"

    def end(self, signum: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(signum)
        return self.process.wait(20)


@pytest.fixture
def mongo(tmp_path: Path) -> Iterator[MongoProcess]:
    # Unix socket paths are short; pytest's folders are not.
    with tempfile.TemporaryDirectory(prefix="dk-") as run_dir:
        server = MongoProcess(tmp_path / "mongo", Path(run_dir) / "mongo.sock")
        yield server
        if server.process is not None and server.process.poll() is None:
            server.process.kill()
            server.process.wait()


async def test_driver_inserts_claims_and_counts(mongo: MongoProcess) -> None:
    await mongo.start()
    async with AsyncMongoClient(mongo.url) as client:
        jobs = client["darkroom"]["jobs"]
        await jobs.insert_one({"_id": "job-1", "state": "queued", "fence": 0, "priority": 2})
        await jobs.insert_one({"_id": "job-2", "state": "queued", "fence": 0, "priority": 1})
        claimed = await jobs.find_one_and_update(
            {"state": "queued"},
            {"$set": {"state": "running", "owner": "a"}, "$inc": {"fence": 1}},
            sort=[("priority", 1)],
            return_document=ReturnDocument.AFTER,
        )
        assert claimed == {"_id": "job-2", "state": "running", "fence": 1, "priority": 1, "owner": "a"}
        assert await jobs.count_documents({"state": "queued"}) == 1


async def test_acknowledged_writes_outlive_kill_nine(mongo: MongoProcess) -> None:
    await mongo.start()
    async with AsyncMongoClient(mongo.url) as client:
        await client["darkroom"]["jobs"].insert_many([{"_id": i} for i in range(200)])
    mongo.end(signal.SIGKILL)
    await mongo.start()
    async with AsyncMongoClient(mongo.url) as client:
        assert await client["darkroom"]["jobs"].count_documents({}) == 200


async def test_sigterm_ends_it_cleanly_with_a_client_connected(mongo: MongoProcess) -> None:
    await mongo.start()
    async with AsyncMongoClient(mongo.url) as client:
        await client["darkroom"]["jobs"].insert_one({"_id": 1})
        assert mongo.end(signal.SIGTERM) == 0
    assert not mongo.socket.exists()
    assert not await mongo_answers(mongo.socket)


async def test_only_its_owner_may_connect_or_read_the_files(mongo: MongoProcess) -> None:
    await mongo.start()
    assert stat.S_IMODE(mongo.socket.stat().st_mode) & 0o077 == 0
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in mongo.data_dir.iterdir())
