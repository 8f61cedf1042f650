"""One attempt: an event as bytes, signed, posted to where its endpoint leads. Never fails, says what happened."""

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from configs.settings import WebhookSettings
from serving.jobs.job import Job
from serving.outbound import Answer, Outbound, OutboundError
from serving.telemetry import WEBHOOK_ATTEMPTS, WEBHOOK_SECONDS
from serving.webhooks.delivery import Attempt, Delivery
from serving.webhooks.endpoint import Endpoint
from serving.webhooks.signing import signed_headers

MAX_BODY_BYTES = 20_000  # Standard Webhooks' advice; receivers refuse more
# What an event that is too large goes without, in turn, until it is not. Receivers know their jobs by the metadata.
SPARED_FIELDS = ("request", "result", "metadata")
KEPT_BODY_CHARS = 1_024

# A job as clients see it, with URLs that are signed now.
JobView = Callable[[Job], Mapping[str, Any]]


class Sender:
    """Sends deliveries, one attempt a call."""

    def __init__(self, outbound: Outbound, view: JobView, settings: WebhookSettings) -> None:
        self._outbound = outbound
        self._view = view
        self._settings = settings

    async def send(self, delivery: Delivery, endpoint: Endpoint) -> Attempt:
        now = time.time()
        body = event_body(delivery, self._view(delivery.job))
        headers = signed_headers(delivery.event_id, int(now), body, endpoint.signing_secrets(now))
        started = time.perf_counter()
        try:
            answer = await self._outbound.post(
                delivery.url or endpoint.url or "",
                body,
                headers={"Content-Type": "application/json", **headers},
                timeout_s=self._settings.timeout_s,
                max_bytes=self._settings.max_response_bytes,
            )
        except OutboundError as error:
            attempt = Attempt(now, _ms_since(started), error_code=error.code, error=str(error))
        else:
            attempt = _attempt(answer, now, _ms_since(started))
        WEBHOOK_ATTEMPTS.labels(attempt.outcome).inc()
        WEBHOOK_SECONDS.observe(attempt.duration_ms / 1_000)
        return attempt


def event_body(delivery: Delivery, job: Mapping[str, Any]) -> bytes:
    """What receivers get. The URLs in it are fresh at each attempt, so its bytes may differ; the event id does not."""
    event: dict[str, Any] = {
        "type": delivery.type,
        "timestamp": datetime.fromtimestamp(delivery.event_at, UTC).isoformat().replace("+00:00", "Z"),
        "data": dict(job),
    }
    for name in SPARED_FIELDS:
        body = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
        if len(body) < MAX_BODY_BYTES:
            return body
        event["data"] |= {name: None, "is_cut": True}
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()


def _attempt(answer: Answer, at: float, duration_ms: int) -> Attempt:
    return Attempt(
        at=at,
        duration_ms=duration_ms,
        status=answer.status,
        # Text without what no JSON and no database carries well.
        body=answer.body[: 4 * KEPT_BODY_CHARS].decode("utf-8", "replace").replace("\x00", "\ufffd")[:KEPT_BODY_CHARS],
        retry_after_s=read_retry_after(answer.headers.get("retry-after"), now=at),
    )


def read_retry_after(value: str | None, *, now: float) -> float | None:
    """Seconds, from either form that the header may have; None where it makes no sense."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value.strip()[:9])
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now)


def _ms_since(started: float) -> int:
    return round((time.perf_counter() - started) * 1_000)
