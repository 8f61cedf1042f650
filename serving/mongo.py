"""The one gate to MongoDB: every query of a tenant's data carries the tenant. The only pymongo import.

Operations keep to the subset that the embedded server and MongoDB share (docs/decisions.md), stated in
tests/serving/test_mongo_contract.py. Times are numbers (Unix seconds), booleans are read through bool(),
find_one_and_update never upserts; a write never filters by $or, because the embedded server then forgets the
conditions beside it and changes another document.
"""

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar, get_args

from pymongo import ASCENDING, DESCENDING, AsyncMongoClient, ReturnDocument
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError, PyMongoError
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from configs.settings import MongoSettings
from serving.errors import Conflict, Unavailable
from serving.telemetry import get_logger

log = get_logger("mongo")

T = TypeVar("T")

Document = dict[str, Any]
Filter = Mapping[str, Any]
Sort = Sequence[tuple[str, int]]  # 1 ascending, -1 descending
CollectionName = Literal[
    "jobs",
    "tenants",
    "api_keys",
    "adapters",
    "adapter_names",
    "idempotency_keys",
    "shares",
    "paces",
    "server",
    "chores",
    "webhook_endpoints",
    "webhook_deliveries",
    "webhook_lines",
    "uploads",
    "upload_objects",
    "upload_accounts",
    "upload_uses",
]
# Why a query may look past one tenant. A new reason is a decision: add it here, and to the test that lists them.
Reason = Literal[
    "authenticate", "drive_jobs", "count_queue", "share_queue", "deliver_webhooks", "tidy_uploads", "operate_server"
]

# One field each: the embedded server uses an index for a range of its first field and for nothing else, so every query
# that must not grow with the collection is a range of one field (docs/decisions.md).
INDEXES: dict[CollectionName, tuple[Sort, ...]] = {
    "jobs": (
        (("line", ASCENDING),),
        (("waits_of", ASCENDING),),
        (("wake_at", ASCENDING),),
        (("tidy_at", ASCENDING),),
        (("owed_at", ASCENDING),),
        (("tenant_at", ASCENDING),),
    ),
    "tenants": (),
    "api_keys": ((("tenant", ASCENDING), ("created_at", DESCENDING)),),
    "adapters": (
        (("tenant", ASCENDING), ("name", ASCENDING), ("version", DESCENDING)),
        (("tenant", ASCENDING), ("state", ASCENDING), ("created_at", DESCENDING)),
    ),
    "adapter_names": (),
    "shares": (),
    "paces": ((("at", ASCENDING),),),
    "idempotency_keys": ((("created_at", ASCENDING),),),
    "server": (),
    "chores": (),
    "webhook_endpoints": ((("place", ASCENDING),),),
    "webhook_deliveries": (
        (("pending_key", ASCENDING),),
        (("list_key", ASCENDING),),
        (("job_key", ASCENDING),),
        (("delete_at", ASCENDING),),
    ),
    "webhook_lines": ((("due_at", ASCENDING),),),
    "uploads": (
        (("place", ASCENDING),),
        (("pending_place", ASCENDING),),
        (("holds", ASCENDING),),
        (("wake_at", ASCENDING),),
    ),
    "upload_objects": (),
    "upload_accounts": (),
    "upload_uses": ((("place", ASCENDING),),),
}


def under(prefix: str) -> dict[str, str]:
    """The condition that a string begins with `prefix`, as a range; `prefix` ends in a character below U+10FFFF."""
    return {"$gte": prefix, "$lt": past(prefix)}


def past(prefix: str) -> str:
    """The first string after all that begin with `prefix`."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def readable(documents: Sequence[Document], read: Callable[[Document], T]) -> list[T]:
    """What `read` makes of them, without those that this version cannot read: they must not stop the work on others."""
    found = []
    for document in documents:
        try:
            found.append(read(document))
        except (KeyError, TypeError, ValueError):
            log.exception("document not understood", document_id=document.get("_id"))
    return found


class Collection:
    """One collection seen through a fixed filter: a tenant's own documents, or all for a stated reason."""

    def __init__(self, collection: AsyncCollection[Document], scope: Filter) -> None:
        self._collection = collection
        self._scope = dict(scope)

    async def insert(self, document: Document) -> None:
        """Raises Conflict when `_id` exists."""
        if any(document.get(key, value) != value for key, value in self._scope.items()):
            raise AssertionError("a document of another tenant must not pass this gate")
        with _talking():
            try:
                await self._collection.insert_one({**document, **self._scope})
            except DuplicateKeyError as error:
                raise Conflict(f"{document.get('_id')!r} exists already.") from error

    async def find_one(self, query: Filter) -> Document | None:
        with _talking():
            return await self._collection.find_one(self._scoped(query))

    async def find(
        self, query: Filter, *, sort: Sort, limit: int, fields: Sequence[str] | None = None
    ) -> list[Document]:
        """Whole documents, or only their `_id` and the named fields."""
        wanted = None if fields is None else list(fields)
        with _talking():
            found = self._collection.find(self._scoped(query), wanted)
            return await found.sort(list(sort)).limit(limit).to_list(limit)

    async def update_one(self, query: Filter, update: Filter) -> bool:
        """True when a document matched."""
        with _talking():
            outcome = await self._collection.update_one(self._plain(query), self._checked(update))
        return outcome.matched_count == 1

    async def find_one_and_update(self, query: Filter, update: Filter, *, sort: Sort | None = None) -> Document | None:
        """The document after the update, or None when nothing matched. One atomic step: claims rest on it."""
        with _talking():
            document: Document | None = await self._collection.find_one_and_update(
                self._plain(query),
                self._checked(update),
                sort=list(sort) if sort else None,
                return_document=ReturnDocument.AFTER,
            )
        return document

    async def delete_one(self, query: Filter) -> bool:
        with _talking():
            outcome = await self._collection.delete_one(self._plain(query))
        return outcome.deleted_count == 1

    async def count(self, query: Filter) -> int:
        """By the `count` command: the embedded server answers it in SQL, and count_documents 20 times slower."""
        with _talking():
            answer = await self._collection.database.command("count", self._collection.name, query=self._plain(query))
        return int(answer["n"])

    def _scoped(self, query: Filter) -> Document:
        clash = [key for key, value in self._scope.items() if query.get(key, value) != value]
        if clash:
            raise AssertionError(f"the query names another {clash[0]} than its gate")
        return {**query, **self._scope}

    def _plain(self, query: Filter) -> Document:
        """For writes and counts, in which the embedded server takes the brackets off an $or."""
        if any(key.startswith("$") for key in query):
            raise AssertionError("a write or a count filters by plain conditions only")
        return self._scoped(query)

    def _checked(self, update: Filter) -> Filter:
        """Refuses an update that would move a document out of the scope."""
        if any(key in changes for changes in update.values() for key in self._scope):
            raise AssertionError("an update must not touch what the gate is about")
        return update


class Mongo:
    """A connection and its two doors. Blocking nothing: all calls are coroutines of the loop that first used it."""

    def __init__(self, settings: MongoSettings, *, event_listeners: Sequence[Any] = ()) -> None:
        assert settings.url is not None, "settings must be effective: the supervisor fills in the embedded URL"
        timeout_ms = int(settings.timeout_s * 1000)
        self._client: AsyncMongoClient[Document] = AsyncMongoClient(
            settings.url.get_secret_value(),
            serverSelectionTimeoutMS=timeout_ms,
            connectTimeoutMS=timeout_ms,
            socketTimeoutMS=timeout_ms,
            waitQueueTimeoutMS=timeout_ms,
            event_listeners=list(event_listeners),
            appname="darkroom",
        )
        self._database: AsyncDatabase[Document] = self._client[settings.database]

    def of_tenant(self, name: CollectionName, tenant: str) -> Collection:
        """The tenant's own documents of a collection, and no others."""
        if not tenant:
            raise AssertionError("a tenant is never empty")
        return Collection(self._database[name], {"tenant": tenant})

    def across_tenants(self, name: CollectionName, reason: Reason) -> Collection:
        """All documents of a collection, for the server's own work; callers are listed in a test."""
        if reason not in get_args(Reason):
            raise AssertionError(f"{reason!r} is no reason to look past a tenant")
        return Collection(self._database[name], {})

    async def make_indexes(self) -> None:
        """Idempotent; safe to run at every start."""
        with _talking():
            for name, indexes in INDEXES.items():
                for keys in indexes:
                    await self._database[name].create_index(list(keys))

    async def ping(self) -> None:
        """Raises Unavailable when the database does not answer within the configured timeout."""
        with _talking():
            await self._client.admin.command("ping")

    async def explain(self, command: Document) -> Document:
        """How the database would go about a command; it reads and changes nothing. The embedded server cannot say."""
        with _talking():
            return await self._database.command({"explain": command, "verbosity": "queryPlanner"})

    async def close(self) -> None:
        await self._client.close()


class CommandLog(CommandListener):
    """Every command as it goes over the wire, for those who want to see how the database takes it."""

    def __init__(self) -> None:
        self.sent: list[Document] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.sent.append(dict(event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """What was sent is all that is kept."""

    def failed(self, event: CommandFailedEvent) -> None:
        """What was sent is all that is kept."""


@contextmanager
def _talking() -> Generator[None, None, None]:
    """The one table from pymongo's errors to ours; and a cancellation that pymongo swallowed takes place after all.

    pymongo drops a cancellation that comes while it reads an answer: a cancelled loop would then go on for ever.
    """
    task = asyncio.current_task()
    num_cancels = 0 if task is None else task.cancelling()
    try:
        yield
    except PyMongoError as error:
        if task is not None and task.cancelling() > num_cancels:
            raise asyncio.CancelledError from error
        message = f"The job database did not answer ({type(error).__name__})."
        raise Unavailable(message, code="database_unavailable") from error
    if task is not None and task.cancelling() > num_cancels:
        raise asyncio.CancelledError
