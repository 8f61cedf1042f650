"""Endpoints in MongoDB, always inside a tenant. Knows no job and no delivery."""

import time
from collections.abc import Sequence
from contextlib import suppress

from configs.settings import WebhookSettings
from serving.errors import BadInput, Conflict, NotFound
from serving.mongo import Collection, Document, Mongo, under
from serving.outbound import Outbound, OutboundError
from serving.webhooks.endpoint import (
    DEFAULT_ID,
    Endpoint,
    OffReason,
    default_endpoint,
    document_id,
    endpoint_from_document,
    endpoint_to_document,
    new_endpoint,
    old_secrets_to_document,
)
from serving.webhooks.events import EventType


async def check_webhook_url(outbound: Outbound, url: str, *, param: str = "webhook_url") -> None:
    """Raises BadInput that names the field when events could not be sent there."""
    try:
        await outbound.check_url(url)
    except OutboundError as error:
        raise BadInput(f"{param}: {error}", param=param, code=error.code) from error


class EndpointStore:
    """The webhook_endpoints collection."""

    def __init__(self, mongo: Mongo, outbound: Outbound, settings: WebhookSettings) -> None:
        self._mongo = mongo
        self._outbound = outbound
        self._settings = settings

    async def admit(self, tenant: str, url: str) -> None:
        """Raises BadInput for a URL that cannot be called, Conflict when the tenant has as many as it may."""
        await check_webhook_url(self._outbound, url, param="url")
        limit = self._settings.max_endpoints
        # Calls at once may step over the limit together, by as many as they are; the list still shows all.
        if len(await self.list(tenant)) >= limit:
            raise Conflict(f"There are {limit} webhook endpoints already; delete one.", code="too_many_endpoints")

    async def create(
        self, tenant: str, url: str, events: Sequence[EventType], *, endpoint_id: str | None = None
    ) -> Endpoint:
        """A new endpoint, against which admit() has nothing; the one of this id if it was made before."""
        endpoint = new_endpoint(tenant, url, _distinct(events), endpoint_id=endpoint_id)
        try:
            await self._endpoints(tenant).insert(endpoint_to_document(endpoint))
        except Conflict:
            return await self.get(tenant, endpoint.id)
        return endpoint

    async def list(self, tenant: str) -> list[Endpoint]:
        """Oldest first; without the default one."""
        query: Document = {"place": under(f"{tenant}/")}
        found = await self._endpoints(tenant).find(query, sort=[("place", 1)], limit=2 * self._settings.max_endpoints)
        return [endpoint_from_document(document) for document in found]

    async def find(self, tenant: str, endpoint_id: str) -> Endpoint | None:
        document = await self._endpoints(tenant).find_one({"_id": document_id(tenant, endpoint_id)})
        return None if document is None else endpoint_from_document(document)

    async def get(self, tenant: str, endpoint_id: str) -> Endpoint:
        """Raises NotFound; the default endpoint is made when it is first asked for."""
        if endpoint_id == DEFAULT_ID:
            return await self.default(tenant)
        endpoint = await self.find(tenant, endpoint_id)
        if endpoint is None:
            raise _not_found(endpoint_id)
        return endpoint

    async def default(self, tenant: str) -> Endpoint:
        """The one behind `webhook_url`, made at first use. All who ask at once get the same secret."""
        while (endpoint := await self.find(tenant, DEFAULT_ID)) is None:
            with suppress(Conflict):  # another made it in between, and theirs holds
                await self._endpoints(tenant).insert(endpoint_to_document(default_endpoint(tenant)))
        return endpoint

    async def change(
        self,
        tenant: str,
        endpoint_id: str,
        *,
        url: str | None = None,
        events: Sequence[EventType] | None = None,
        is_on: bool | None = None,
    ) -> Endpoint:
        """What is None stays. Raises NotFound, or BadInput for a URL that cannot be called."""
        endpoint = await self.get(tenant, endpoint_id)
        changes: Document = {}
        if url is not None:
            if endpoint.is_default:
                raise BadInput("The default endpoint has no URL: each job brings its own.", param="url")
            await check_webhook_url(self._outbound, url, param="url")
            changes["url"] = url
        if events is not None:
            changes["events"] = list(_distinct(events))
        if is_on is not None:
            changes["off_reason"] = None if is_on else "by_owner"
        return await self._set(tenant, endpoint_id, changes) if changes else endpoint

    async def rotate_secret(self, tenant: str, endpoint_id: str) -> Endpoint:
        """A new secret; the one before signs beside it for a while. Conflict when two rotate at once."""
        before = await self.get(tenant, endpoint_id)
        after = before.with_new_secret(old_until=time.time() + self._settings.rotation_s)
        document = await self._endpoints(tenant).find_one_and_update(
            {"_id": document_id(tenant, endpoint_id), "secret": before.secret},
            {"$set": {"secret": after.secret, "old_secrets": old_secrets_to_document(after)}},
        )
        if document is None:
            raise Conflict("The secret is being rotated by somebody else.", code="rotated_meanwhile")
        return endpoint_from_document(document)

    async def switch_off(self, endpoint: Endpoint, reason: OffReason) -> None:
        """Unless it was switched off, or leads elsewhere by now."""
        seen = {"_id": document_id(endpoint.tenant, endpoint.id), "off_reason": None, "url": endpoint.url}
        await self._endpoints(endpoint.tenant).update_one(seen, {"$set": {"off_reason": reason}})

    async def delete(self, tenant: str, endpoint_id: str) -> None:
        """Raises NotFound. Whatever is on its way there is for the caller to end."""
        if endpoint_id == DEFAULT_ID:
            raise BadInput("The default endpoint cannot be deleted; switch it off instead.", param="id")
        if not await self._endpoints(tenant).delete_one({"_id": document_id(tenant, endpoint_id)}):
            raise _not_found(endpoint_id)

    async def _set(self, tenant: str, endpoint_id: str, changes: Document) -> Endpoint:
        document = await self._endpoints(tenant).find_one_and_update(
            {"_id": document_id(tenant, endpoint_id)}, {"$set": changes}
        )
        if document is None:
            raise _not_found(endpoint_id)
        return endpoint_from_document(document)

    def _endpoints(self, tenant: str) -> Collection:
        return self._mongo.of_tenant("webhook_endpoints", tenant)


def _distinct(events: Sequence[EventType]) -> tuple[EventType, ...]:
    return tuple(dict.fromkeys(events))


def _not_found(endpoint_id: str) -> NotFound:
    return NotFound(f"No webhook endpoint {endpoint_id[:100]!r}.", param="id", code="webhook_not_found")
