"""/v1/webhooks: where a tenant wants to be told of its jobs, the secrets that sign, and what was sent."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from serving.api.deps import CurrentCaller, ServicesDep
from serving.api.preferences import IdempotencyKey
from serving.api.schemas import Deleted, ErrorBody
from serving.api.schemas.webhooks import (
    NewWebhookBody,
    WebhookBody,
    WebhookChanges,
    WebhookDelivery,
    WebhookDeliveryList,
    WebhookList,
    WebhookSecret,
    WebhookWithSecret,
    delivery_body,
    webhook_body,
    webhook_with_secret,
)
from serving.errors import Conflict
from serving.jobs.idempotency import fingerprint_of
from serving.webhooks.delivery import lines_of
from serving.webhooks.endpoint import new_endpoint_id

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

MAX_PAGE = 100


@router.post("", status_code=201, responses={409: {"model": ErrorBody}})
async def create_webhook(
    body: NewWebhookBody, services: ServicesDep, caller: CurrentCaller, key: IdempotencyKey, request: Request
) -> WebhookWithSecret:
    """The only time the secret is shown; a new one can be made later. Events follow the Standard Webhooks spec.

    The same call again under its Idempotency-Key shows the same endpoint, and its secret, again.
    """
    endpoints, tenant, endpoint_id = services.webhooks.endpoints, caller.tenant, new_endpoint_id()
    fingerprint = fingerprint_of(request.url.path, body.model_dump(mode="json"))
    if key is None or await services.idempotency.find(tenant, key, fingerprint=fingerprint) is None:
        await endpoints.admit(tenant, body.url)  # before the key is taken: a refused call leaves it free
    if key is not None:
        reserved = await services.idempotency.reserve(tenant, key, fingerprint=fingerprint, new_id=endpoint_id)
        request.state.is_replay, endpoint_id = not reserved.is_new, reserved.id
    return webhook_with_secret(await endpoints.create(tenant, body.url, body.events, endpoint_id=endpoint_id))


@router.get("")
async def list_webhooks(services: ServicesDep, caller: CurrentCaller) -> WebhookList:
    """Oldest first; without the default endpoint."""
    return WebhookList(data=[webhook_body(e) for e in await services.webhooks.endpoints.list(caller.tenant)])


@router.get("/default/secret")
async def get_default_secret(services: ServicesDep, caller: CurrentCaller) -> WebhookSecret:
    """What signs the events of jobs with a webhook_url; made at first use."""
    return WebhookSecret(secret=(await services.webhooks.endpoints.default(caller.tenant)).secret)


@router.get("/{webhook_id}")
async def get_webhook(services: ServicesDep, caller: CurrentCaller, webhook_id: str) -> WebhookBody:
    return webhook_body(await services.webhooks.endpoints.get(caller.tenant, webhook_id))


@router.patch("/{webhook_id}")
async def change_webhook(
    body: WebhookChanges, services: ServicesDep, caller: CurrentCaller, webhook_id: str
) -> WebhookBody:
    """What is on its way goes to the new URL."""
    endpoint = await services.webhooks.endpoints.change(
        caller.tenant, webhook_id, url=body.url, events=body.events, is_on=body.enabled
    )
    for line in lines_of(endpoint) if not endpoint.is_on else ():
        await services.webhooks.lines.wake(caller.tenant, endpoint.id, line)  # what stands there is dropped
    return webhook_body(endpoint)


@router.delete("/{webhook_id}")
async def delete_webhook(services: ServicesDep, caller: CurrentCaller, webhook_id: str) -> Deleted:
    """What is on its way there is dropped."""
    endpoint = await services.webhooks.endpoints.get(caller.tenant, webhook_id)
    await services.webhooks.endpoints.delete(caller.tenant, webhook_id)
    for line in lines_of(endpoint):
        await services.webhooks.lines.wake(caller.tenant, endpoint.id, line)
    return Deleted(id=webhook_id)


@router.post("/{webhook_id}/rotate-secret", responses={409: {"model": ErrorBody}})
async def rotate_secret(services: ServicesDep, caller: CurrentCaller, webhook_id: str) -> WebhookWithSecret:
    """A new secret. For 24 hours events carry a signature of the old one too."""
    return webhook_with_secret(await services.webhooks.endpoints.rotate_secret(caller.tenant, webhook_id))


@router.get("/{webhook_id}/deliveries")
async def list_deliveries(
    services: ServicesDep,
    caller: CurrentCaller,
    webhook_id: str,
    job_id: Annotated[str | None, Query(max_length=100, description="Only of this job.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
    after: Annotated[str | None, Query(max_length=100, description="Id of the last one of the page before.")] = None,
) -> WebhookDeliveryList:
    """Newest first."""
    endpoint = await services.webhooks.endpoints.get(caller.tenant, webhook_id)
    found = await services.webhooks.deliveries.page(
        caller.tenant, endpoint.id, job_id=job_id, limit=limit + 1, after=after
    )
    page = found[:limit]
    return WebhookDeliveryList(
        data=[delivery_body(delivery, endpoint) for delivery in page],
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=len(found) > limit,
    )


@router.post("/{webhook_id}/deliveries/{delivery_id}/redeliver", status_code=202, responses={409: {"model": ErrorBody}})
async def redeliver(services: ServicesDep, caller: CurrentCaller, webhook_id: str, delivery_id: str) -> WebhookDelivery:
    """Sends an event that was delivered, given up or dropped once more, at once and then on schedule; same id."""
    endpoint = await services.webhooks.endpoints.get(caller.tenant, webhook_id)
    if not endpoint.is_on:
        raise Conflict("The endpoint is switched off.", code="endpoint_off")
    delivery = await services.webhooks.deliveries.redeliver(caller.tenant, endpoint.id, delivery_id)
    await services.webhooks.lines.wake(caller.tenant, endpoint.id, delivery.line)
    return delivery_body(delivery, endpoint)
