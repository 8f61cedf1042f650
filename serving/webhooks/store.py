"""Deliveries in MongoDB: made once, found in the order in which they are due, changed by one at a time.

Every query is a range of one indexed string, so it takes as long among a hundred thousand deliveries as among ten.
"""

import time

from configs.settings import WebhookSettings
from serving.errors import Conflict, NotFound
from serving.mongo import Collection, Document, Mongo, past, readable, under
from serving.telemetry import WEBHOOK_DELIVERIES
from serving.webhooks.delivery import (
    Delivery,
    changing_part,
    delivery_from_document,
    delivery_to_document,
    due_mark,
)


class DeliveryStore:
    """The webhook_deliveries collection."""

    def __init__(self, mongo: Mongo, settings: WebhookSettings) -> None:
        self._mongo = mongo
        self._settings = settings

    async def add(self, delivery: Delivery) -> bool:
        """False when it was made before."""
        try:
            await self._deliveries(delivery.tenant).insert({**delivery_to_document(delivery), "delete_at": 0.0})
        except Conflict:
            return False
        return True

    async def get(self, tenant: str, endpoint_id: str, delivery_id: str) -> Delivery:
        """Raises NotFound."""
        document = await self._deliveries(tenant).find_one({"_id": delivery_id, "endpoint_id": endpoint_id})
        if document is None:
            raise NotFound(f"No delivery {delivery_id[:100]!r}.", param="delivery_id", code="delivery_not_found")
        return delivery_from_document(document)

    async def page(
        self, tenant: str, endpoint_id: str, *, job_id: str | None, limit: int, after: str | None
    ) -> list[Delivery]:
        """Newest first, of all jobs or of one; `after` is the id of the last delivery of the page before."""
        key = "list_key" if job_id is None else "job_key"
        place = under(f"{tenant}/{endpoint_id}/" if job_id is None else f"{tenant}/{endpoint_id}/{job_id}/")
        if after is not None:
            last = await self.get(tenant, endpoint_id, after)
            place["$lt"] = last.list_key if job_id is None else last.job_key
        found = await self._deliveries(tenant).find({key: place}, sort=[(key, -1)], limit=limit)
        return readable(found, delivery_from_document)

    async def redeliver(self, tenant: str, endpoint_id: str, delivery_id: str) -> Delivery:
        """Due now and once more from the start of the schedule; raises NotFound, or Conflict while it is pending."""
        delivery = await self.get(tenant, endpoint_id, delivery_id)
        if delivery.status == "pending":
            raise Conflict("This delivery is on its way already.", code="delivery_pending")
        after = delivery.again()
        if not await self.change(delivery, after):
            raise Conflict("This delivery is on its way already.", code="delivery_pending")
        return after

    async def due(self, tenant: str, line: str, *, limit: int) -> list[Delivery]:
        """What stands in this queue and is due, longest due first."""
        return await self._waiting(tenant, line, f"{line}/{due_mark(time.time())}~", limit)

    async def waiting(self, tenant: str, line: str, *, limit: int) -> list[Delivery]:
        """What stands in this queue, due or not."""
        return await self._waiting(tenant, line, past(f"{line}/"), limit)

    async def earlier_of_job(self, delivery: Delivery) -> Delivery | None:
        """The first event of the same job that goes before this one and stands in the same queue."""
        before: Document = {"$gte": delivery.job_prefix, "$lt": delivery.job_key}
        return await self._first_of_job(delivery, {"job_key": before, **_in_line_with(delivery)})

    async def later_of_job(self, delivery: Delivery) -> Delivery | None:
        """The next event of the same job to the same endpoint, whatever became of it."""
        return await self._first_of_job(delivery, {"job_key": _after(delivery)})

    async def next_of_job(self, delivery: Delivery) -> Delivery | None:
        """The next event of the same job that stands in the same queue."""
        return await self._first_of_job(delivery, {"job_key": _after(delivery), **_in_line_with(delivery)})

    async def change(self, before: Delivery, after: Delivery) -> bool:
        """One atomic step from `before`; False when somebody else has changed it since."""
        is_over = after.status != "pending"
        delete_at = time.time() + self._settings.keep_s if is_over else 0.0
        is_changed = await self._deliveries(before.tenant).update_one(
            {"_id": before.id, "pending_key": before.pending_key, "num_attempts": before.num_attempts},
            {"$set": {**changing_part(after), "delete_at": delete_at}},
        )
        if is_changed and is_over:
            WEBHOOK_DELIVERIES.labels(after.status).inc()
        return is_changed

    async def delete_old(self, *, limit: int) -> int:
        """Forgets deliveries that came to their end long ago; how many."""
        everywhere = self._mongo.across_tenants("webhook_deliveries", "deliver_webhooks")
        old: Document = {"delete_at": {"$gt": 0, "$lte": time.time()}}
        found = await everywhere.find(old, sort=[("delete_at", 1)], limit=limit, fields=["tenant", "delete_at"])
        for document in found:
            # Unless it was sent again by hand meanwhile.
            seen = {"_id": document["_id"], "delete_at": document["delete_at"]}
            await self._deliveries(document["tenant"]).delete_one(seen)
        return len(found)

    async def _waiting(self, tenant: str, line: str, end: str, limit: int) -> list[Delivery]:
        place = {"$gte": f"{line}/", "$lt": end}
        found = await self._deliveries(tenant).find({"pending_key": place}, sort=[("pending_key", 1)], limit=limit)
        return readable(found, delivery_from_document)

    async def _first_of_job(self, delivery: Delivery, query: Document) -> Delivery | None:
        found = await self._deliveries(delivery.tenant).find(query, sort=[("job_key", 1)], limit=1)
        return next(iter(readable(found, delivery_from_document)), None)

    def _deliveries(self, tenant: str) -> Collection:
        return self._mongo.of_tenant("webhook_deliveries", tenant)


def _in_line_with(delivery: Delivery) -> Document:
    return {"line": delivery.line, "status": "pending", "is_in_order": 1}


def _after(delivery: Delivery) -> Document:
    return {"$gt": delivery.job_key, "$lt": past(delivery.job_prefix)}
