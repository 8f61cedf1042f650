"""Watches every command that goes to MongoDB, and knows which of them must carry a tenant."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from pymongo import monitoring

from configs.settings import MongoSettings
from serving.mongo import Collection, CollectionName, Mongo, Reason

WATCHED = {"jobs", "api_keys", "adapters", "adapter_names", "idempotency_keys"}
WATCHED |= {"webhook_endpoints", "webhook_deliveries", "webhook_lines"}
WATCHED |= {"uploads", "upload_objects", "upload_accounts", "upload_uses"}
COMMANDS = {"find", "aggregate", "count", "update", "delete", "findAndModify", "insert", "distinct"}
# What the server's own work looks like on the wire: (reason, command, collection). Anything else must carry the tenant.
EXCEPTIONS: set[tuple[Reason, str, CollectionName]] = {
    ("authenticate", "find", "api_keys"),
    ("count_queue", "count", "jobs"),
    ("count_queue", "find", "jobs"),
    ("drive_jobs", "find", "jobs"),
    ("drive_jobs", "findAndModify", "jobs"),
    ("drive_jobs", "update", "jobs"),
    ("deliver_webhooks", "find", "webhook_lines"),
    ("tidy_uploads", "find", "uploads"),
}
_reason: ContextVar[Reason | None] = ContextVar("reason", default=None)


class Marked:
    """A collection whose commands are known, for as long as each call lasts, to have been sent for `reason`."""

    def __init__(self, collection: Collection, reason: Reason) -> None:
        self._inner, self._why = collection, reason

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        async def marked(*args: Any, **kwargs: Any) -> Any:
            token = _reason.set(self._why)
            try:
                return await method(*args, **kwargs)
            finally:
                _reason.reset(token)

        return marked


@dataclass
class Watch(monitoring.CommandListener):
    """Every command on tenants' data: which tenants it is bound to, or why it need not be."""

    tenants: set[str] = field(default_factory=set)
    excused: set[tuple[str, str, str]] = field(default_factory=set)
    breaches: list[str] = field(default_factory=list)

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        name, collection = event.command_name, str(event.command.get(event.command_name))
        if name not in COMMANDS or collection not in WATCHED:
            return
        reason = _reason.get()
        if reason is not None and (reason, name, collection) in EXCEPTIONS:
            self.excused.add((reason, name, collection))
            return
        for query in queries_of(name, event.command):
            tenant = query.get("tenant")
            if isinstance(tenant, str):
                self.tenants.add(tenant)
            else:
                self.breaches.append(f"{name} on {collection} for {reason}: {dict(query)}")

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


def queries_of(name: str, command: Any) -> list[Any]:
    match name:
        case "find":
            return [command["filter"]]
        case "aggregate":
            return [command["pipeline"][0].get("$match", {})]
        case "update":
            return [update["q"] for update in command["updates"]]
        case "delete":
            return [delete["q"] for delete in command["deletes"]]
        case "insert":
            return list(command["documents"])
        case _:
            return [command.get("query", {})]


def watched_by(watch: Watch) -> Any:
    class WatchedMongo(Mongo):
        def __init__(self, settings: MongoSettings) -> None:
            super().__init__(settings, event_listeners=[watch])

        def across_tenants(self, name: CollectionName, reason: Reason) -> Any:
            return Marked(super().across_tenants(name, reason), reason)

    return WatchedMongo
