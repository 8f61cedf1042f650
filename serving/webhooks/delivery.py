"""Delivery: one event on its way to one endpoint, its attempts and what comes after each. Knows no storage."""

import hashlib
import random
import time
from dataclasses import asdict, dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

from configs.settings import WebhookSettings
from serving.jobs.documents import job_from_document, job_to_document
from serving.jobs.job import Job
from serving.mongo import Document
from serving.outbound import TookTooLong
from serving.webhooks.endpoint import Endpoint
from serving.webhooks.events import PROGRESS, Event, EventType

DeliveryStatus = Literal["pending", "delivered", "failed", "dropped"]  # dropped: nobody wants it any more

MAX_ATTEMPTS_KEPT = 20
# The queues of one tenant's job URLs: a slow one may hold up those that share its queue, never another tenant's.
NUM_DEFAULT_LINES = 16
GONE = 410
SLOW_STATUSES = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of sending a delivery once: the receiver's answer, or why there was none."""

    at: float
    duration_ms: int
    status: int | None = None
    body: str = ""  # its first part
    error_code: str | None = None
    error: str | None = None
    retry_after_s: float | None = None  # what the receiver asked for

    @property
    def is_success(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def outcome(self) -> str:
        """For the metrics."""
        return self.error_code or ("delivered" if self.is_success else "refused")

    @property
    def is_slow(self) -> bool:
        """The receiver is overloaded or hangs: everything on its way there should wait, not this delivery alone."""
        return self.status in SLOW_STATUSES or self.error_code == TookTooLong.code


@dataclass(frozen=True, slots=True)
class Delivery:
    """A snapshot; DeliveryStore is the only one that changes what is stored."""

    id: str
    tenant: str
    endpoint_id: str
    line: str  # the queue it stands in
    event_id: str
    type: EventType
    event_at: float
    order: str  # among the events of its job
    url: str | None  # the job's own, on its way to the default endpoint
    job: Job  # as it was when the event happened
    created_at: float
    due_at: float = 0.0  # Unix seconds, whole milliseconds; of the next attempt
    status: DeliveryStatus = "pending"
    reason: str | None = None  # why it failed or was dropped
    tries: int = 0  # how far it is on the schedule
    attempts: tuple[Attempt, ...] = ()
    num_attempts: int = 0  # counts on when old attempts are forgotten
    is_in_order: bool = True  # waits for earlier events of its job; no more once it was sent again by hand

    @property
    def job_prefix(self) -> str:
        """What the job_key of all events of its job to its endpoint begins with."""
        return f"{self.tenant}/{self.endpoint_id}/{self.job.id}/"

    @property
    def job_key(self) -> str:
        return f"{self.job_prefix}{self.order}/{self.id}"

    @property
    def list_key(self) -> str:
        return f"{self.tenant}/{self.endpoint_id}/{due_mark(self.created_at)}/{self.id}"

    @property
    def pending_key(self) -> str:
        """Where it stands in its queue: by the time of its next attempt. Empty: it does not wait any more."""
        return f"{self.line}/{due_mark(self.due_at)}/{self.order}/{self.id}" if self.status == "pending" else ""

    def after(self, attempt: Attempt, settings: WebhookSettings) -> "Delivery":
        """Delivered, to be tried again on schedule, or given up."""
        seen = replace(
            self,
            attempts=(*self.attempts, attempt)[-MAX_ATTEMPTS_KEPT:],
            num_attempts=self.num_attempts + 1,
            tries=self.tries + 1,
        )
        if attempt.is_success:
            return replace(seen, status="delivered", reason=None)
        if attempt.status == GONE:
            return replace(seen, status="dropped", reason="gone")
        # News of how far a job is are worth nothing later, and must not hold up the news of its end.
        if seen.tries >= len(settings.retry_waits_s) or self.type == PROGRESS:
            return replace(seen, status="failed", reason=attempt.error_code or f"status_{attempt.status}")
        wait_s = settings.retry_waits_s[seen.tries] * random.uniform(1 - settings.jitter, 1 + settings.jitter)
        asked_s = min(attempt.retry_after_s or 0.0, settings.max_retry_after_s)
        return seen.put_off(time.time() + max(wait_s, asked_s))

    def again(self) -> "Delivery":
        """Due now, from the start of the schedule, as its owner asked."""
        return replace(self.put_off(time.time()), status="pending", reason=None, tries=0, is_in_order=False)

    def put_off(self, until: float) -> "Delivery":
        return replace(self, due_at=to_ms(until))

    def dropped(self, reason: str) -> "Delivery":
        return replace(self, status="dropped", reason=reason)


def new_delivery(event: Event, endpoint: Endpoint) -> Delivery:
    """Its id follows from the event and the endpoint: whoever makes it a second time is told that it exists."""
    now = to_ms(time.time())
    job = event.job
    name = f"{event.id}/{endpoint.tenant}/{endpoint.id}"
    return Delivery(
        id=f"wd_{hashlib.sha256(name.encode()).hexdigest()[:32]}",
        tenant=endpoint.tenant,
        endpoint_id=endpoint.id,
        line=line_of(endpoint, job.webhook_url),
        event_id=event.id,
        type=event.type,
        event_at=event.at,
        order=event.order,
        url=job.webhook_url if endpoint.is_default else None,
        job=job,
        created_at=now,
        due_at=now,
    )


def lines_of(endpoint: Endpoint) -> list[str]:
    """The queues of an endpoint: one, but a few for the URLs of jobs."""
    name = f"{endpoint.tenant}/{endpoint.id}"
    return [f"{name}-{number:02d}" for number in range(NUM_DEFAULT_LINES)] if endpoint.is_default else [name]


def line_of(endpoint: Endpoint, job_url: str | None) -> str:
    """The queue for a job's events, by where its own URL leads."""
    lines = lines_of(endpoint)
    place = urlsplit(job_url or "").netloc
    return lines[int.from_bytes(hashlib.sha256(place.encode()).digest()[:4], "big") % len(lines)]


def due_mark(at: float) -> str:
    """A moment as text that sorts like it."""
    return f"{round(at * 1000):015d}"


def to_ms(at: float) -> float:
    """A moment that every database gives back as it was, so that keys made of it stay the same."""
    return round(at, 3)


def delivery_to_document(delivery: Delivery) -> Document:
    names = ("tenant", "endpoint_id", "line", "event_id", "type", "event_at", "order", "url", "created_at")
    fixed = {name: getattr(delivery, name) for name in names}
    keys = {"list_key": delivery.list_key, "job_key": delivery.job_key}
    return {"_id": delivery.id, **fixed, **keys, "job": job_to_document(delivery.job), **changing_part(delivery)}


def changing_part(delivery: Delivery) -> Document:
    names = ("due_at", "status", "reason", "tries", "num_attempts", "pending_key")
    part: Document = {name: getattr(delivery, name) for name in names}
    part["attempts"] = [asdict(attempt) for attempt in delivery.attempts]
    part["is_in_order"] = int(delivery.is_in_order)
    return part


def delivery_from_document(document: Document) -> Delivery:
    """Raises KeyError or TypeError on a document this version does not understand."""
    special = {"id", "job", "attempts", "is_in_order"}
    plain = {name: document[name] for name in Delivery.__slots__ if name not in special}
    return Delivery(
        **plain,
        id=document["_id"],
        job=job_from_document(document["job"]),
        attempts=tuple(Attempt(**attempt) for attempt in document["attempts"]),
        is_in_order=bool(document["is_in_order"]),
    )
