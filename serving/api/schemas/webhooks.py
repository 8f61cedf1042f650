"""Webhook endpoints and what was sent to them, as clients see it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.webhooks.delivery import Attempt, Delivery, DeliveryStatus
from serving.webhooks.endpoint import Endpoint
from serving.webhooks.events import USUAL, EventType

Events = Annotated[list[EventType], Field(min_length=1, max_length=20)]
Url = Annotated[str, Field(max_length=2_048, description="http or https, at a public address.")]


class NewWebhookBody(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    url: Url
    events: Events = Field(list(USUAL), description="Told of these; all but job.progress if left out.")


class WebhookChanges(BaseModel):
    """What is left out stays as it is."""

    model_config = ConfigDict(strict=True, extra="forbid")

    url: Url | None = None
    events: Events | None = None
    enabled: bool | None = Field(
        None, description="Switched off, what is on its way is dropped; on again, events flow."
    )


class WebhookBody(BaseModel):
    id: str = Field(description='"default" stands for the webhook_url of all jobs.')
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    url: str | None = Field(description="null for the default endpoint: each job has its own.")
    events: list[EventType]
    enabled: bool
    disabled_reason: str | None = Field(description='"by_owner", or "gone" when it answered 410.')
    created_at: int


class WebhookWithSecret(WebhookBody):
    """An endpoint with the secret that signs its events: shown when it is made or changed."""

    secret: str = Field(description="whsec_ and 32 bytes in base64, as Standard Webhooks has it.")


class WebhookList(BaseModel):
    object: Literal["list"] = "list"
    data: list[WebhookBody]


class WebhookSecret(BaseModel):
    object: Literal["webhook_secret"] = "webhook_secret"
    secret: str


class WebhookAttempt(BaseModel):
    """One sending and what the receiver said, or why there was no answer."""

    at: float
    duration_ms: int
    status: int | None
    body: str = Field(description="The first 1,024 characters of the answer.")
    error: str | None


class WebhookDelivery(BaseModel):
    """One event on its way to one endpoint."""

    id: str
    object: Literal["webhook_delivery"] = "webhook_delivery"
    webhook_id: str = Field(description="The event's id, in the header webhook-id; the same at each attempt.")
    type: EventType
    job_id: str
    url: str | None
    status: DeliveryStatus = Field(
        description="failed: given up after the last attempt. dropped: the endpoint was switched off or deleted, "
        "answered 410, or newer progress made it outdated."
    )
    reason: str | None
    created_at: float
    next_attempt_at: float | None
    num_attempts: int
    attempts: list[WebhookAttempt] = Field(description="The latest 20, oldest first.")


class WebhookDeliveryList(BaseModel):
    object: Literal["list"] = "list"
    data: list[WebhookDelivery]
    first_id: str | None
    last_id: str | None
    has_more: bool


def webhook_body(endpoint: Endpoint) -> WebhookBody:
    return WebhookBody(
        id=endpoint.id,
        url=endpoint.url,
        events=list(endpoint.events),
        enabled=endpoint.is_on,
        disabled_reason=endpoint.off_reason,
        created_at=int(endpoint.created_at),
    )


def webhook_with_secret(endpoint: Endpoint) -> WebhookWithSecret:
    return WebhookWithSecret(**webhook_body(endpoint).model_dump(), secret=endpoint.secret)


def delivery_body(delivery: Delivery, endpoint: Endpoint) -> WebhookDelivery:
    return WebhookDelivery(
        id=delivery.id,
        webhook_id=delivery.event_id,
        type=delivery.type,
        job_id=delivery.job.id,
        url=delivery.url or endpoint.url,
        status=delivery.status,
        reason=delivery.reason,
        created_at=delivery.created_at,
        next_attempt_at=delivery.due_at if delivery.status == "pending" else None,
        num_attempts=delivery.num_attempts,
        attempts=[_attempt_body(attempt) for attempt in delivery.attempts],
    )


def _attempt_body(attempt: Attempt) -> WebhookAttempt:
    return WebhookAttempt(
        at=attempt.at,
        duration_ms=attempt.duration_ms,
        status=attempt.status,
        body=attempt.body,
        error=attempt.error,
    )
