"""Endpoint: where a tenant wants to be told of which events, and the secrets that sign them. Knows no storage."""

import secrets
import time
from dataclasses import dataclass, field, replace
from typing import Literal

from serving.mongo import Document
from serving.webhooks.events import USUAL, EventType
from serving.webhooks.signing import new_secret

DEFAULT_ID = "default"  # stands for the webhook_url of all jobs of a tenant
MAX_OLD_SECRETS = 3

OffReason = Literal["by_owner", "gone"]  # gone: it answered 410


@dataclass(frozen=True, slots=True)
class OldSecret:
    """A secret that was replaced and still signs for a while."""

    secret: str = field(repr=False)
    until: float  # Unix seconds


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A snapshot; EndpointStore is the only one that changes what is stored."""

    id: str
    tenant: str
    url: str | None  # None for the default endpoint: each job has its own
    events: tuple[EventType, ...]
    secret: str = field(repr=False)
    created_at: float
    old_secrets: tuple[OldSecret, ...] = ()
    off_reason: OffReason | None = None

    @property
    def is_on(self) -> bool:
        return self.off_reason is None

    @property
    def is_default(self) -> bool:
        return self.id == DEFAULT_ID

    def wants(self, event_type: EventType) -> bool:
        return self.is_on and event_type in self.events

    def signing_secrets(self, now: float) -> list[str]:
        """The newest first."""
        return [self.secret, *(old.secret for old in self.old_secrets if old.until > now)]

    def with_new_secret(self, *, old_until: float) -> "Endpoint":
        old = (OldSecret(self.secret, old_until), *self.old_secrets)
        return replace(self, secret=new_secret(), old_secrets=old[:MAX_OLD_SECRETS])


def new_endpoint_id() -> str:
    return f"we_{secrets.token_hex(12)}"


def new_endpoint(tenant: str, url: str, events: tuple[EventType, ...], *, endpoint_id: str | None = None) -> Endpoint:
    """With a fresh secret, and a fresh id unless it got one before."""
    return Endpoint(endpoint_id or new_endpoint_id(), tenant, url, events, new_secret(), time.time())


def default_endpoint(tenant: str) -> Endpoint:
    """What stands behind `webhook_url`: told that jobs start and how they end, unless the tenant chooses otherwise."""
    return Endpoint(DEFAULT_ID, tenant, None, USUAL, new_secret(), time.time())


def document_id(tenant: str, endpoint_id: str) -> str:
    return f"{tenant}/{endpoint_id}"


def endpoint_to_document(endpoint: Endpoint) -> Document:
    return {
        "_id": document_id(endpoint.tenant, endpoint.id),
        "tenant": endpoint.tenant,
        "endpoint_id": endpoint.id,
        # Where it stands among the tenant's, by age. The default one is not listed.
        "place": ""
        if endpoint.is_default
        else f"{endpoint.tenant}/{int(endpoint.created_at * 1000):015d}/{endpoint.id}",
        "url": endpoint.url,
        "events": list(endpoint.events),
        "secret": endpoint.secret,
        "old_secrets": old_secrets_to_document(endpoint),
        "created_at": endpoint.created_at,
        "off_reason": endpoint.off_reason,
    }


def old_secrets_to_document(endpoint: Endpoint) -> list[Document]:
    return [{"secret": old.secret, "until": old.until} for old in endpoint.old_secrets]


def endpoint_from_document(document: Document) -> Endpoint:
    return Endpoint(
        id=document["endpoint_id"],
        tenant=document["tenant"],
        url=document["url"],
        events=tuple(document["events"]),
        secret=document["secret"],
        created_at=document["created_at"],
        old_secrets=tuple(OldSecret(**old) for old in document["old_secrets"]),
        off_reason=document["off_reason"],
    )
