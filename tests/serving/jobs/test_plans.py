"""What the embedded database does for each query of the queue: it searches an index, however many jobs there are."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from nx_27017.handler import NeoSQLiteHandler
from nx_27017.server import handle_client
from pydantic import SecretStr
from pymongo import AsyncMongoClient

from configs.settings import JobSettings, MongoSettings
from pipelines.request import Progress
from serving.jobs.documents import job_to_document
from serving.jobs.job import Job, JobError, JobResult, Line
from serving.jobs.store import JobStore
from serving.jobs.upkeep import JobUpkeep
from serving.mongo import Mongo
from tests.serving.house import a_job

FEW, MANY = 1_000, 10_000
SETTINGS = JobSettings()
RESULT = JobResult(images=(), engine_s=0.5, waited_s=0.1)
ON_JOBS = re.compile(r"\s*(SELECT|UPDATE|DELETE)\b.*\bjobs\b", re.IGNORECASE | re.DOTALL)
STEP = 100  # instructions of SQLite's machine between two counts


@dataclass
class Queue:
    """A tenant's long line in a database of its own, and what SQLite is asked to do for it."""

    database: Any
    store: JobStore
    upkeep: JobUpkeep
    jobs: list[Job]
    mine: Job = field(init=False)  # one that runs

    async def statements_of(self, ask: "Ask") -> list[str]:
        said: list[str] = []
        self.database.set_trace_callback(said.append)
        await ask(self)
        self.database.set_trace_callback(None)
        return [sql for sql in said if ON_JOBS.match(sql) and "sqlite_master" not in sql and "pragma_" not in sql]

    async def steps_of(self, ask: "Ask") -> int:
        counts: list[int] = []
        self.database.set_progress_handler(lambda: counts.append(1), STEP)
        await ask(self)
        self.database.set_progress_handler(None, STEP)
        return len(counts) * STEP

    def plan(self, sql: str) -> list[str]:
        return [row[3] for row in self.database.execute(f"EXPLAIN QUERY PLAN {sql}") if "json_each" not in row[3]]


Ask = Callable[[Queue], Awaitable[Any]]
# Each may be asked several times; none may take longer because there are more jobs.
FLAT: dict[str, Ask] = {
    "heads": lambda queue: queue.store.heads(["emoji-3d"], limit=10),
    "claim_next": lambda queue: queue.store.claim_next(Line.of(queue.jobs[0]), owner="router-1"),
    "claim": lambda queue: queue.store.claim(queue.jobs[len(queue.jobs) // 2].id, owner="router-1"),
    "get": lambda queue: queue.store.get("alice", queue.jobs[-1].id),
    "insert": lambda queue: queue.store.insert(a_job()),
    "page": lambda queue: queue.store.page("alice", status=None, kind=None, limit=20, after=queue.jobs[30].id),
    "cancel": lambda queue: queue.store.cancel("alice", queue.jobs[-9].id),
    "renew": lambda queue: queue.store.renew(queue.mine),
    "write_progress": lambda queue: queue.store.write_progress(queue.mine, Progress(1, 2, 1.0)),
    "due": lambda queue: queue.upkeep.due(limit=100),
    "to_tidy": lambda queue: queue.upkeep.to_tidy(limit=100),
    "find_owed": lambda queue: queue.upkeep.find_owed(limit=100),
    "expire": lambda queue: queue.upkeep.expire(queue.jobs[-3]),
    "release": lambda queue: queue.upkeep.release(queue.mine),
}
# These count what there is, along an index.
COUNTS: dict[str, Ask] = {
    "count_queued of all": lambda queue: queue.store.count_queued(),
    "count_queued of one": lambda queue: queue.store.count_queued("alice"),
    "queue_position": lambda queue: queue.store.queue_position(queue.jobs[-1]),
}
ENDS: dict[str, Ask] = {
    "succeed": lambda queue: queue.store.succeed(queue.mine, RESULT, backend="engine:x", device_s=1.0),
    "hand_back": lambda queue: queue.store.hand_back(queue.mine),
    "fail": lambda queue: queue.store.fail(queue.mine, JobError("code", "message")),
}


@asynccontextmanager
async def queue_of(num_jobs: int, folder: Path) -> AsyncIterator[Queue]:
    """The embedded server within this process, where its SQLite can be watched."""
    handler = NeoSQLiteHandler(data_dir=str(folder / f"data-{num_jobs}"))
    socket_path = folder / f"{num_jobs}.sock"
    server = await asyncio.start_unix_server(lambda reader, writer: handle_client(reader, writer, handler), socket_path)
    url = f"mongodb://{quote(str(socket_path), safe='')}/?directConnection=true"
    mongo = Mongo(MongoSettings(url=SecretStr(url), database="plans"))
    await mongo.make_indexes()
    first = a_job()
    jobs = [replace(first, id=f"job_{index:012x}") for index in range(num_jobs)]
    document = job_to_document(first)
    async with AsyncMongoClient(url) as client:
        await client["plans"]["jobs"].insert_many(
            {**document, "_id": job.id, "line": Line.of(job).prefix + job.id, "tenant_at": f"alice/{job.id}"}
            for job in jobs
        )
    queue = Queue(handler.get_database("plans").db, JobStore(mongo, SETTINGS), JobUpkeep(mongo, SETTINGS), jobs)
    queue.mine = await running(queue)
    try:
        yield queue
    finally:
        await mongo.close()
        server.close()
        handler.close_all()


async def running(queue: Queue) -> Job:
    job = await queue.store.claim_next(Line.of(queue.jobs[0]), owner="router-1")
    assert job is not None
    return job


async def test_every_query_searches_an_index_and_none_takes_longer_the_more_jobs_there_are(tmp_path: Path) -> None:
    steps: dict[int, dict[str, int]] = {}
    for num_jobs in (FEW, MANY):
        async with queue_of(num_jobs, tmp_path) as queue:
            steps[num_jobs] = {name: await queue.steps_of(ask) for name, ask in FLAT.items()}
            for name, end in ENDS.items():
                queue.mine = await running(queue)
                steps[num_jobs][name] = await queue.steps_of(end)
    assert steps[FEW]["claim_next"] > 0
    for name, of_few in steps[FEW].items():
        # Ten times as many jobs; a search in a tree takes a step or two more.
        assert steps[MANY][name] <= 1.5 * of_few + 20 * STEP, name


@pytest.mark.parametrize("name", [*FLAT, *COUNTS, *ENDS])
async def test_no_plan_looks_at_all_jobs_or_sorts_them(tmp_path: Path, name: str) -> None:
    async with queue_of(50, tmp_path) as queue:
        statements = await queue.statements_of({**FLAT, **COUNTS, **ENDS}[name])
        assert statements or name == "insert"
        for sql in statements:
            plan = queue.plan(sql)
            searches = [step for step in plan if "CORRELATED" not in step]
            assert searches, sql
            assert all(step.startswith("SEARCH jobs USING ") for step in searches), (sql, plan)
