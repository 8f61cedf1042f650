"""The queue under the bench: filled through JobStore, timed at growing depths, claimed by many processes at once."""

import asyncio
import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from urllib.parse import quote

from bench_serving import BenchFailed, Row, at_concurrency, summarise
from pydantic import SecretStr

from configs.settings import JobSettings, MongoSettings
from pipelines.request import GenerationRequest
from serving.errors import Unavailable
from serving.jobs.job import Job, Line, new_job
from serving.jobs.store import JobStore
from serving.jobs.upkeep import JobUpkeep
from serving.mongo import Mongo

MODEL = "emoji-3d"
SETTINGS = JobSettings(lease_s=86_400.0)  # nothing that is claimed here comes back while we measure
FILLERS = 16  # inserts at once while the queue is filled
Claim = tuple[str, float]  # a job's id, and the milliseconds that claiming it took
START_DEADLINE_S, RACE_DEADLINE_S = 60.0, 600.0
MAX_LINES = 1_000


@dataclass(frozen=True, slots=True)
class Database:
    """Where the queue lies; `data_dir` is None for a server that is not ours."""

    url: str
    name: str
    data_dir: Path | None

    def open(self) -> Mongo:
        return Mongo(MongoSettings(url=SecretStr(self.url), database=self.name))


@contextmanager
def database_for_bench(url: str | None, folder: Path) -> Iterator[Database]:
    """A new database on the server at `url`, or on an embedded server of the bench's own."""
    name = f"darkroom_bench_{os.getpid()}"
    if url is not None:
        yield Database(url, name, None)
        return
    folder.mkdir(parents=True, exist_ok=True)
    socket_path = folder / "m.sock"
    command = [sys.executable, "-m", "serving.embedded.mongo", "--data-dir", str(folder), "--socket", str(socket_path)]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield Database(f"mongodb://{quote(str(socket_path), safe='')}/?directConnection=true", name, folder)
    finally:
        server.terminate()
        server.wait(START_DEADLINE_S)


async def wait_for(mongo: Mongo) -> None:
    """Until the server answers."""
    deadline = time.monotonic() + START_DEADLINE_S
    while True:
        try:
            await mongo.ping()
            return
        except Unavailable as error:
            if time.monotonic() > deadline:
                raise BenchFailed("the database did not answer") from error
            await asyncio.sleep(0.1)


class Queue:
    """A queue of many tenants' jobs, taken turns by arrival."""

    def __init__(self, mongo: Mongo, *, num_tenants: int) -> None:
        self.store = JobStore(mongo, SETTINGS)
        self.upkeep = JobUpkeep(mongo, SETTINGS)
        self.num_tenants = num_tenants
        self.num_inserted = 0
        self.num_claimed = 0
        self.newest: Job | None = None

    async def insert(self) -> None:
        """What a submission writes."""
        job = a_job(f"tenant-{self.num_inserted % self.num_tenants:04}")
        self.num_inserted += 1
        await self.store.insert(job)
        self.newest = job

    async def fill(self, depth: int) -> None:
        await at_concurrency(self.insert, FILLERS, max(0, depth - self.num_inserted + self.num_claimed))

    async def heads(self) -> None:
        """Who waits, of all tenants."""
        lines = await self.store.heads([MODEL], limit=MAX_LINES)
        if len(lines) != self.num_tenants:
            raise BenchFailed(f"{len(lines)} lines were found, {self.num_tenants} tenants wait")

    async def claim_next(self) -> None:
        """What a free place costs, once it is known whose turn it is."""
        line = Line.of(a_job(f"tenant-{self.num_claimed % self.num_tenants:04}"))
        if await self.store.claim_next(line, owner="bench") is None:
            raise BenchFailed(f"nobody stood in {line}")
        self.num_claimed += 1

    async def get(self) -> None:
        """What a poll reads."""
        assert self.newest is not None
        await self.store.get(self.newest.tenant, self.newest.id)

    async def measure(self, depth: int, times: int) -> list[Row]:
        """Every operation one at a time, at one depth of the queue, which it is left with."""
        operations: dict[str, Callable[[], Awaitable[None]]] = {
            "claim_next": self.claim_next,
            "insert": self.insert,
            "heads": self.heads,
            "get": self.get,
            "due": self.due,
            "count_queued": self.count,
        }
        rows = []
        for name, operation in operations.items():
            took_ms, wall_s = await at_concurrency(_timed(operation), 1, times)
            rows.append(summarise(f"{name}, {depth} queued", 1, took_ms, wall_s))
        return rows

    async def due(self) -> None:
        """What the server looks for by itself."""
        await self.upkeep.due(limit=100)

    async def count(self) -> None:
        """What a submission asks for at most twice a second."""
        await self.store.count_queued()


def _timed(operation: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[float]]:
    async def timed() -> float:
        began = time.perf_counter()
        await operation()
        return 1000 * (time.perf_counter() - began)

    return timed


def race(database: Database, *, num_processes: int) -> tuple[list[Claim], float]:
    """All waiting jobs, claimed by so many Routers' processes at once, and the seconds until none was left."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(num_processes + 1)
    results: multiprocessing.Queue[list[Claim]] = context.Queue()
    arguments = [(database, number, start, results) for number in range(num_processes)]
    processes = [context.Process(target=_claim_all, args=given, daemon=True) for given in arguments]
    for process in processes:
        process.start()
    start.wait(START_DEADLINE_S)
    began = time.perf_counter()
    claimed = [results.get(timeout=RACE_DEADLINE_S) for _ in processes]
    took_s = time.perf_counter() - began
    for process in processes:
        process.join(START_DEADLINE_S)
    return [claim for claims in claimed for claim in claims], took_s


def check_race(claimed: Sequence[Claim], num_waiting: int) -> None:
    """Raises BenchFailed unless every job was claimed, and once."""
    doubled = [job_id for job_id, times in Counter(job_id for job_id, _ in claimed).items() if times > 1]
    if doubled or len(claimed) != num_waiting:
        raise BenchFailed(f"of {num_waiting} jobs {len(claimed)} were claimed, {len(doubled)} of them more than once")


def _claim_all(database: Database, number: int, start: Barrier, results: "multiprocessing.Queue[list[Claim]]") -> None:
    """One process's part of the race."""
    results.put(asyncio.run(_claims(database, number, start)))


async def _claims(database: Database, number: int, start: Barrier) -> list[Claim]:
    mongo = database.open()
    store, claimed = JobStore(mongo, SETTINGS), list[Claim]()
    try:
        await mongo.ping()
        await asyncio.to_thread(start.wait, START_DEADLINE_S)
        while lines := list(await store.heads([MODEL], limit=MAX_LINES)):
            # Like Routers that know of the same shares, but of each other's claims only when they look again.
            for turn in range(len(lines)):
                line, began = lines[(turn + number) % len(lines)], time.perf_counter()
                if (job := await store.claim_next(line, owner=f"router-{number}")) is not None:
                    claimed.append((job.id, 1000 * (time.perf_counter() - began)))
    finally:
        await mongo.close()
    return claimed


def a_job(tenant: str) -> Job:
    """A waiting job as a submission makes it."""
    request = GenerationRequest(MODEL, "a red apple", "", 64, 64, 1, 7, 1, 4.5)
    return new_job(
        request,
        tenant=tenant,
        kind="image",
        priority="normal",
        metadata={},
        user=None,
        request_id="bench",
        expires_in_s=SETTINGS.max_age_s,
    )
