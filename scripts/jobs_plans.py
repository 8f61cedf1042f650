"""Which indexes the queue's own queries use: the database's word for it, on the very commands that JobStore sends.

A true MongoDB is asked by `explain`. The embedded server is asked through its SQLite file: a second server works on a
copy of it, SQLite tells every statement it runs, and is asked for the plan of each.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nx_27017.handler import NeoSQLiteHandler
from nx_27017.server import handle_client
from pydantic import SecretStr

from configs.settings import JobSettings, MongoSettings
from serving.jobs.store import JobStore
from serving.jobs.upkeep import JobUpkeep
from serving.mongo import CommandLog, Mongo

Action = Callable[[JobStore, JobUpkeep], Awaitable[object]]
# What a plan must not hold: it reads all documents, or sorts what it has read.
SLOW = ("SCAN jobs", "SCAN TABLE", "TEMP B-TREE", "COLLSCAN", "SORT")
EXPLAINED = ("select", "update", "delete", "with")
ON_THE_WIRE = {"lsid", "$db", "$clusterTime", "$readPreference", "txnNumber"}


def is_bounded(plan: Sequence[str]) -> bool:
    """Whether every step of a plan is bounded by an index."""
    return bool(plan) and not any(slow in step for step in plan for slow in SLOW)


async def mongodb_plans(url: str, database: str, actions: Mapping[str, Action]) -> dict[str, list[str]]:
    """The steps of each action's commands as a true MongoDB plans them."""
    commands = CommandLog()
    settings = MongoSettings(url=SecretStr(url), database=database)
    mongo = Mongo(settings, event_listeners=[commands])
    plans: dict[str, list[str]] = {}
    try:
        for name, action in actions.items():
            commands.sent.clear()
            await action(JobStore(mongo, JobSettings()), JobUpkeep(mongo, JobSettings()))
            sent = [{k: v for k, v in command.items() if k not in ON_THE_WIRE} for command in commands.sent]
            replies = [await mongo.explain(command) for command in sent if "insert" not in command]
            plans[name] = list(dict.fromkeys(step for reply in replies for step in mongodb_steps(reply)))
    finally:
        await mongo.close()
    return plans


def mongodb_steps(reply: Mapping[str, Any]) -> list[str]:
    """The stages of an explain's winning plan, outermost first, with the index that each walks."""
    return list(_stages(reply.get("queryPlanner", {}).get("winningPlan", {})))


def _stages(plan: object) -> Iterator[str]:
    if isinstance(plan, list):
        for part in plan:
            yield from _stages(part)
    if isinstance(plan, Mapping):
        if "stage" in plan:
            yield " ".join(str(plan[name]) for name in ("stage", "indexName") if name in plan)
        for part in plan.values():
            yield from _stages(part)


async def embedded_plans(
    data_dir: Path, database: str, folder: Path, actions: Mapping[str, Action]
) -> dict[str, list[str]]:
    """The same of the embedded server whose files lie in `data_dir`; the copy goes to `folder`."""
    _copy(data_dir / f"{database}.db", folder / f"{database}.db")
    plans: dict[str, list[str]] = {}
    async with _server_on(folder) as (handler, url):
        connection = handler.get_database(database).db
        mongo = Mongo(MongoSettings(url=SecretStr(url), database=database))
        try:
            for name, action in actions.items():
                statements: list[str] = []
                connection.set_trace_callback(statements.append)
                await action(JobStore(mongo, JobSettings()), JobUpkeep(mongo, JobSettings()))
                connection.set_trace_callback(None)
                plans[name] = sqlite_steps(connection, statements)
        finally:
            await mongo.close()
    return plans


def sqlite_steps(connection: sqlite3.Connection, statements: Sequence[str]) -> list[str]:
    """How SQLite goes about each statement that reads or changes documents."""
    steps: dict[str, None] = {}
    for statement in statements:
        if statement.lstrip().lower().startswith(EXPLAINED) and "jobs" in statement:
            for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}"):
                steps[step] = None
    return list(steps)


def _copy(source: Path, target: Path) -> None:
    """As of now, including what is still in the write-ahead log; the source is only read."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        closing(sqlite3.connect(f"file:{quote(str(source))}?mode=ro", uri=True)) as read_only,
        closing(sqlite3.connect(target)) as copy,
    ):
        read_only.backup(copy)


@asynccontextmanager
async def _server_on(folder: Path) -> AsyncIterator[tuple[Any, str]]:
    """The embedded server inside this process, so that its SQLite can be listened to."""
    handler = NeoSQLiteHandler(data_dir=str(folder))
    socket_path = folder / "m.sock"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await handle_client(reader, writer, handler)

    server = await asyncio.start_unix_server(answer, socket_path)
    try:
        yield handler, f"mongodb://{quote(str(socket_path), safe='')}/?directConnection=true"
    finally:
        server.close()
        handler.close_all()
