"""The queue of each endpoint, under a lease: one Router at a time sends to an endpoint, and a killed one is replaced.

A queue has one document: when somebody should look at it, and who does. What stands in it is in store.py. So what is
due is found by endpoint, and a receiver with ten thousand waiting events hides nobody else's.
"""

import time
from dataclasses import dataclass, replace

from configs.settings import WebhookSettings
from serving.errors import Conflict, LeaseLost, Unavailable
from serving.mongo import Collection, Document, Mongo

WAKE_TRIES = 5
# How much must be in the way before a pause is a day: more than an endpoint's slowness ever doubles.
MAX_DOUBLINGS = 20


@dataclass(frozen=True, slots=True)
class Line:
    """A snapshot of a queue. `due_at` is 0 while nothing stands in it; while it is held, the end of the lease."""

    id: str
    tenant: str
    endpoint_id: str
    due_at: float
    fence: int  # grows with every claim; a write with an older fence is refused
    wakes: int  # grows with everything that joins the queue
    strikes: int  # times in a row that the endpoint was overloaded
    slow_until: float  # Unix seconds; nothing is sent before

    @property
    def is_paused(self) -> bool:
        return self.slow_until > time.time()

    def after(self, *, is_slow: bool, asked_s: float, settings: WebhookSettings) -> "Line":
        """Paused when its endpoint is overloaded, longer each time in a row, or as long as it asked for."""
        if not is_slow:
            return replace(self, strikes=0, slow_until=0.0)
        doubled_s = settings.slow_wait_s * 2 ** min(self.strikes, MAX_DOUBLINGS)
        pause_s = max(min(doubled_s, settings.slow_cap_s), min(asked_s, settings.max_retry_after_s))
        return replace(self, strikes=self.strikes + 1, slow_until=time.time() + pause_s)


class Lines:
    """The webhook_lines collection."""

    def __init__(self, mongo: Mongo, settings: WebhookSettings) -> None:
        self._mongo = mongo
        self._settings = settings

    async def wake(self, tenant: str, endpoint_id: str, line: str) -> None:
        """Something joined this queue, or it should be looked at for another reason. Made where there is none yet."""
        lines = self._lines(tenant)
        one_more = {"wakes": 1}
        now = time.time()
        fresh: Document = {"_id": line, "endpoint_id": endpoint_id, "due_at": now, "is_held": 0, "fence": 0}
        for _ in range(WAKE_TRIES):
            if await lines.update_one({"_id": line, "is_held": 0}, {"$set": {"due_at": now}, "$inc": one_more}):
                return
            # Who holds it sees the count when letting go, and looks again.
            if await lines.update_one({"_id": line, "is_held": 1}, {"$inc": one_more}):
                return
            try:
                await lines.insert({**fresh, "wakes": 1, "strikes": 0, "slow_until": 0.0})
            except Conflict:
                continue  # made, claimed or let go between two looks
            return
        raise Unavailable("The queue of a webhook endpoint was not woken.", code="database_unavailable")

    async def due(self, *, limit: int) -> list[Line]:
        """Of all tenants: queues that want to be looked at, or whose holder did not come back; longest due first."""
        everywhere = self._mongo.across_tenants("webhook_lines", "deliver_webhooks")
        query: Document = {"due_at": {"$gt": 0, "$lte": time.time()}}
        return [_line(document) for document in await everywhere.find(query, sort=[("due_at", 1)], limit=limit)]

    async def claim(self, line: Line) -> Line | None:
        """The right to send from this queue, for as long as it is renewed; None when another was quicker."""
        seen: Document = {"_id": line.id, "fence": line.fence, "due_at": line.due_at}
        changes = {"is_held": 1, "due_at": time.time() + self._settings.lease_s}
        document = await self._lines(line.tenant).find_one_and_update(seen, {"$set": changes, "$inc": {"fence": 1}})
        return None if document is None else _line(document)

    async def renew(self, line: Line) -> Line:
        """Raises LeaseLost when another holds it."""
        changes = {"due_at": time.time() + self._settings.lease_s, **_pace(line)}
        document = await self._lines(line.tenant).find_one_and_update(_mine(line), {"$set": changes})
        if document is None:
            raise LeaseLost(f"{line.id}: fence {line.fence} is no longer the newest")
        return _line(document)

    async def release(self, line: Line, *, due_at: float) -> bool:
        """Lets go; `due_at` is when to look again, 0 never. False: something joined it since, or it is another's."""
        seen = {**_mine(line), "wakes": line.wakes}
        return await self._lines(line.tenant).update_one(
            seen, {"$set": {"is_held": 0, "due_at": due_at, **_pace(line)}}
        )

    async def remove(self, line: Line) -> bool:
        """Lets go of a queue that nobody needs any more. False: something joined it since, or it is another's."""
        return await self._lines(line.tenant).delete_one({**_mine(line), "wakes": line.wakes})

    def _lines(self, tenant: str) -> Collection:
        return self._mongo.of_tenant("webhook_lines", tenant)


def _mine(line: Line) -> Document:
    return {"_id": line.id, "fence": line.fence, "is_held": 1}


def _pace(line: Line) -> Document:
    return {"strikes": line.strikes, "slow_until": line.slow_until}


def _line(document: Document) -> Line:
    names = ("tenant", "endpoint_id", "due_at", "fence", "wakes", "strikes", "slow_until")
    return Line(id=document["_id"], **{name: document[name] for name in names})
