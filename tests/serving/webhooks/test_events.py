"""What a job's state tells, how it is signed, and what comes after each attempt. No database, no network."""

import base64
import json
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from configs.settings import WebhookSettings
from pipelines.request import Progress
from serving.jobs.job import Job, JobError
from serving.webhooks.delivery import Attempt, delivery_from_document, delivery_to_document, lines_of, new_delivery
from serving.webhooks.endpoint import (
    Endpoint,
    default_endpoint,
    endpoint_from_document,
    endpoint_to_document,
    new_endpoint,
)
from serving.webhooks.events import events_of, progress_event
from serving.webhooks.lines import Line
from serving.webhooks.sending import MAX_BODY_BYTES, event_body, read_retry_after
from serving.webhooks.signing import new_secret, signed_headers
from tests.serving.house import a_job

SETTINGS = WebhookSettings(jitter=0.0)
ENDPOINT = new_endpoint("alice", "https://hooks.test/", ("job.started", "job.succeeded"))


def ended(**changes: Any) -> Job:
    values: dict[str, Any] = {"status": "failed", "started_at": 10.0, "finished_at": 20.0, "lives": 0}
    return replace(a_job(), error=JobError("x", "y"), **(values | changes))


def test_a_job_that_waits_has_nothing_to_tell() -> None:
    assert events_of(a_job()) == []


def test_a_job_tells_its_start_and_its_end_in_order() -> None:
    started, end = events_of(ended())
    assert (started.type, started.at, end.type, end.at) == ("job.started", 10.0, "job.failed", 20.0)
    assert started.order < end.order
    assert (started.job.status, started.job.error, started.job.finished_at) == ("running", None, None)
    assert end.job == ended(id=end.job.id, created_at=end.job.created_at, **_moments(end.job))


def _moments(job: Job) -> dict[str, float]:
    return {"expires_at": job.expires_at, "wake_at": job.wake_at}


def test_a_job_cancelled_before_it_began_tells_no_start() -> None:
    assert [event.type for event in events_of(ended(status="cancelled", started_at=None))] == ["job.cancelled"]


def test_the_same_state_tells_the_same_events_and_a_second_attempt_starts_nothing_anew() -> None:
    job = ended()
    assert [event.id for event in events_of(job)] == [event.id for event in events_of(job)]
    again = replace(job, status="running", started_at=15.0, attempts=2)
    assert events_of(again)[0].id == events_of(job)[0].id


def test_a_job_that_was_retried_by_hand_tells_events_of_its_own_after_those_before() -> None:
    first, second = ended(), ended(lives=1)
    second = replace(second, id=first.id)
    assert not {event.id for event in events_of(first)} & {event.id for event in events_of(second)}
    assert max(event.order for event in events_of(first)) < min(event.order for event in events_of(second))


def test_progress_comes_between_start_and_end() -> None:
    job = replace(a_job(), status="running", started_at=10.0)
    told = progress_event(job, Progress(3, 4))
    assert (told.job.step, told.job.steps, told.job.progress) == (3, 4, 75)
    assert events_of(job)[0].order < told.order
    assert told.order < events_of(replace(job, status="succeeded", finished_at=time.time()))[-1].order


@given(st.binary(max_size=200), st.text(alphabet="abc_0", min_size=1, max_size=30))
def test_the_published_package_verifies_every_signature_and_none_of_a_changed_body(body: bytes, event_id: str) -> None:
    body = body.hex().encode()
    secrets = [new_secret(), new_secret()]
    headers = signed_headers(event_id, int(time.time()), body, secrets)
    for secret in secrets:
        Webhook(secret).verify(body, headers, json_parse=False)
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body + b"0", headers, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(body, headers, json_parse=False)


def test_a_secret_is_256_random_bits_in_base64() -> None:
    assert len(base64.b64decode(new_secret().removeprefix("whsec_"))) == 32
    assert new_secret() != new_secret()


def test_an_endpoint_and_a_delivery_survive_storage_and_hide_their_secrets() -> None:
    endpoint = ENDPOINT.with_new_secret(old_until=5.0)
    assert endpoint_from_document(json.loads(json.dumps(endpoint_to_document(endpoint)))) == endpoint
    assert endpoint.secret not in repr(endpoint)
    assert ENDPOINT.secret not in repr(endpoint)
    delivery = new_delivery(events_of(ended())[0], endpoint).after(Attempt(1.0, 2, status=500, body="é"), SETTINGS)
    assert delivery_from_document(json.loads(json.dumps(delivery_to_document(delivery)))) == delivery


def test_a_replaced_secret_signs_until_its_time_is_over_and_few_are_kept() -> None:
    endpoint: Endpoint = ENDPOINT
    for number in range(6):
        endpoint = endpoint.with_new_secret(old_until=100.0 + number)
    assert endpoint.signing_secrets(now=104.5) == [endpoint.secret, endpoint.old_secrets[0].secret]
    assert len(endpoint.signing_secrets(now=0.0)) == 4


def attempts(*outcomes: Attempt, settings: WebhookSettings = SETTINGS, event: int = -1) -> Any:
    delivery = new_delivery(events_of(ended())[event], ENDPOINT)
    for outcome in outcomes:
        delivery = delivery.after(outcome, settings)
    return delivery


def refused(**changes: Any) -> Attempt:
    return Attempt(0.0, 1, **({"status": 500} | changes))


def test_the_schedule_is_that_of_standard_webhooks() -> None:
    waits = []
    delivery = attempts()
    while delivery.status == "pending":
        before = time.time()
        delivery = delivery.after(refused(), SETTINGS)
        waits.append(round(delivery.due_at - before))
    assert waits[:-1] == [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400]
    assert (delivery.status, delivery.reason, delivery.num_attempts) == ("failed", "status_500", 10)
    assert delivery.pending_key == ""


def test_waits_are_spread_by_jitter() -> None:
    due = {round(attempts(refused(), refused(), settings=WebhookSettings(jitter=0.2)).due_at) for _ in range(20)}
    assert len(due) > 1
    assert all(abs(moment - time.time() - 300) <= 62 for moment in due)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_2xx_is_success(status: int) -> None:
    assert attempts(refused(status=status)).status == "delivered"


@pytest.mark.parametrize("status", [100, 199, 300, 301, 307, 400, 401, 404, 500, 503])
def test_anything_else_is_tried_again(status: int) -> None:
    assert attempts(refused(status=status)).status == "pending"


def test_gone_ends_a_delivery_at_once() -> None:
    assert attempts(refused(status=410)).reason == "gone"


def test_a_receivers_retry_after_puts_its_delivery_off() -> None:
    assert round(attempts(refused(status=429, retry_after_s=900.0)).due_at - time.time()) == 900
    assert round(attempts(refused(status=429, retry_after_s=1.0)).due_at - time.time()) == 5


def test_progress_is_tried_once() -> None:
    job = replace(a_job(), status="running", started_at=1.0)
    told = new_delivery(progress_event(job, Progress(1, 2)), ENDPOINT).after(refused(error_code="timeout"), SETTINGS)
    assert (told.status, told.reason) == ("failed", "timeout")


def test_sent_again_by_hand_it_starts_the_schedule_anew_and_waits_for_nobody() -> None:
    again = attempts(*[refused()] * 10).again()
    assert (again.status, again.tries, again.num_attempts, again.is_in_order) == ("pending", 0, 10, False)
    assert again.after(refused(), SETTINGS).status == "pending"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("Thu, 01 Jan 1970 00:03:20 GMT", 100.0),
        ("Thu, 01 Jan 1970 00:00:20 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("", None),
        (None, None),
        ("9" * 400, 999_999_999.0),
    ],
)
def test_retry_after_is_read_in_both_forms(value: str | None, seconds: float | None) -> None:
    assert read_retry_after(value, now=100.0) == seconds


def line() -> Line:
    return Line("alice/we_1", "alice", "we_1", due_at=1.0, fence=1, wakes=1, strikes=0, slow_until=0.0)


def test_an_overloaded_endpoint_pauses_longer_each_time_and_not_for_ever() -> None:
    pauses, this = [], line()
    for _ in range(60):
        before = time.time()
        this = this.after(is_slow=True, asked_s=0.0, settings=SETTINGS)
        pauses.append(round(this.slow_until - before))
    assert pauses[:4] == [5, 10, 20, 40]
    assert pauses[-1] == SETTINGS.slow_cap_s
    assert not this.after(is_slow=False, asked_s=0.0, settings=SETTINGS).is_paused


def test_an_endpoint_may_ask_for_a_longer_pause_within_reason() -> None:
    asked = line().after(is_slow=True, asked_s=1e12, settings=SETTINGS)
    assert round(asked.slow_until - time.time()) == SETTINGS.max_retry_after_s


@pytest.mark.parametrize(
    ("attempt", "is_slow"),
    [
        (refused(status=429), True),
        (refused(status=503), True),
        (refused(status=None, error_code="timeout"), True),
        (refused(status=None, error_code="no_answer"), False),
        (refused(status=500), False),
        (refused(status=200, retry_after_s=5.0), False),
    ],
)
def test_only_an_overloaded_or_hanging_endpoint_is_slow(attempt: Attempt, is_slow: bool) -> None:
    assert attempt.is_slow == is_slow


def body_of(**fields: Any) -> Any:
    delivery = new_delivery(events_of(ended())[-1], ENDPOINT)
    body = event_body(delivery, {"id": "job_1", "request": {}, "result": None, "metadata": {}} | fields)
    assert len(body) < MAX_BODY_BYTES
    return json.loads(body)


def test_an_event_says_what_when_and_the_job() -> None:
    assert body_of() == {
        "type": "job.failed",
        "timestamp": "1970-01-01T00:00:20Z",
        "data": {"id": "job_1", "request": {}, "result": None, "metadata": {}},
    }


def test_an_event_that_would_be_too_large_goes_without_its_largest_parts_and_says_so() -> None:
    long = "\u2600" * 4_000
    cut = body_of(request={"prompt": long, "negative_prompt": long}, metadata={"order": "7"})["data"]
    assert (cut["request"], cut["metadata"], cut["is_cut"]) == (None, {"order": "7"}, True)
    cut = body_of(request={"prompt": long}, result={"x": long * 2}, metadata={"order": "7"})["data"]
    assert (cut["request"], cut["result"], cut["metadata"]) == (None, None, {"order": "7"})
    assert body_of(metadata={"x": long * 2})["data"]["metadata"] is None


def test_job_urls_share_a_few_queues_by_where_they_lead_and_an_endpoint_has_its_own() -> None:
    assert lines_of(ENDPOINT) == [f"alice/{ENDPOINT.id}"]
    endpoint = default_endpoint("alice")

    def queue(url: str) -> str:
        return new_delivery(events_of(ended(webhook_url=url))[0], endpoint).line

    assert queue("https://a.test/x") == queue("https://a.test/y?z=1")
    found = {queue(f"https://{number}.test/") for number in range(300)}
    assert found == set(lines_of(endpoint))
    assert len(found) == 16
