"""Which endpoints want an event, each tenant's read once: for a batch of news, or for a moment."""

from serving.webhooks.endpoint import Endpoint
from serving.webhooks.endpoints import EndpointStore
from serving.webhooks.events import Event


class Roster:
    """What it has read stays as it was: make a new one to see newer endpoints."""

    def __init__(self, endpoints: EndpointStore) -> None:
        self._endpoints = endpoints
        self._listed: dict[str, list[Endpoint]] = {}
        self._defaults: dict[str, Endpoint] = {}

    async def wanting(self, event: Event) -> list[Endpoint]:
        """The tenant's own endpoints, and the one behind the job's `webhook_url`, as far as they want this event."""
        tenant = event.job.tenant
        if tenant not in self._listed:
            self._listed[tenant] = await self._endpoints.list(tenant)
        found = list(self._listed[tenant])
        if event.job.webhook_url is not None:
            if tenant not in self._defaults:
                self._defaults[tenant] = await self._endpoints.default(tenant)
            found.append(self._defaults[tenant])
        return [endpoint for endpoint in found if endpoint.wants(event.type)]
