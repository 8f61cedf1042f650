"""Judges the evidence of a chaos run: what was lost, what was made twice, and whatever else is wrong.

Pure: evidence in, findings out. That it finds what it should is tested with doctored evidence.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from chaos_evidence import Delivery, Evidence, FoundJob
from chaos_journal import Order
from standardwebhooks import Webhook

FINAL = {"succeeded", "failed", "cancelled"}
MAX_CLOCK_S = 60.0  # between a webhook's timestamp and its arrival
LEDGER_TOLERANCE = 0.01  # shares fade a little meanwhile

Verdict = Literal["lost", "doubled", "wrong"]


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something that must not be."""

    verdict: Verdict
    about: str  # a job, an order or a tenant
    what: str


def judge(
    evidence: Evidence, *, spares_callers: bool = False, allowed_codes: Collection[str] = frozenset()
) -> list[Finding]:
    """All findings, worst first. `spares_callers`: no waiting client may have got an error."""
    found = {
        *find_lost(evidence),
        *find_doubled(evidence),
        *find_bad_ends(evidence, allowed_codes),
        *find_bad_pictures(evidence),
        *find_bad_webhooks(evidence),
        *find_bad_ledgers(evidence),
        *(find_hurt_callers(evidence) if spares_callers else ()),
    }
    return sorted(found)


def find_lost(evidence: Evidence) -> Iterator[Finding]:
    """Accepted, and no outcome to show for it: a client saw an id or a picture."""
    jobs = {job.id: job for job in evidence.jobs}
    for job_id, order_id in accepted(evidence).items():
        job = jobs.get(job_id)
        if job is None:
            yield Finding("lost", job_id, "is not in the database")
        elif job.status not in FINAL:
            yield Finding("lost", job_id, f"has not ended: {job.status}")
        elif job.status == "succeeded":
            for picture in evidence.pictures[job_id]:
                if picture.found_sha256 is None:
                    yield Finding("lost", job_id, f"its picture {picture.key} is not in the bucket")
            num_wanted = evidence.orders[order_id].num_images
            if len(job.picture_keys) < num_wanted:
                yield Finding("lost", job_id, f"{len(job.picture_keys)} of {num_wanted} pictures")
        if job is not None and (said := evidence.answers[job_id]) != job.status:
            yield Finding("lost", job_id, f"is {job.status}, and the API says {said}")


def find_doubled(evidence: Evidence) -> Iterator[Finding]:
    """One wish, made or told twice."""
    yield from _wishes_with_many_jobs(evidence)
    for job in evidence.jobs:
        if job.status in FINAL and (extra := evidence.objects[job.id] - set(job.picture_keys)):
            yield Finding("doubled", job.id, f"objects that no result names: {', '.join(sorted(extra))}")
        order = evidence.orders.get(job.order)
        if order is not None and len(job.picture_keys) > order.num_images:
            yield Finding("doubled", job.id, f"{len(job.picture_keys)} pictures instead of {order.num_images}")
    for what in evidence.backward:
        yield Finding("doubled", what.partition(":")[0], what)
    yield from _ends_told_twice(evidence)


def find_bad_ends(evidence: Evidence, allowed_codes: Collection[str]) -> Iterator[Finding]:
    """Ends that nothing here explains, ends that differ from what a client was told, and jobs without end."""
    for job in evidence.jobs:
        if job.status not in FINAL:
            yield Finding("wrong", job.id, f"still {job.status} (owner {job.owner}, attempt {job.attempts})")
        elif job.owner is not None:
            yield Finding("wrong", job.id, f"has ended and is still owned by {job.owner}")
        order = evidence.orders.get(job.order)
        if job.status == "failed" and job.error_code not in allowed_codes:
            yield Finding("wrong", job.id, f"failed with {job.error_code} after {job.attempts} attempts")
        if job.status == "cancelled" and order is not None and not _may_be_cancelled(order, evidence):
            yield Finding("wrong", job.id, "was cancelled by nobody")
    status = {job.id: job.status for job in evidence.jobs}
    for entry in evidence.entries:
        if entry.kind == "ended" and status.get(entry.job, entry.detail["status"]) != entry.detail["status"]:
            yield Finding("wrong", entry.job, f"a client saw it {entry.detail['status']}; it is {status[entry.job]}")
        if entry.kind == "answered" and status.get(entry.job) not in {None, "succeeded"}:
            yield Finding("wrong", entry.job, f"a client has its pictures; it is {status[entry.job]}")


def find_bad_pictures(evidence: Evidence) -> Iterator[Finding]:
    """Bytes that are not those the job promises, and pixels that are not those its seed demands."""
    for job in evidence.jobs:
        for picture in evidence.pictures[job.id]:
            if picture.found_sha256 is not None and picture.found_sha256 != picture.sha256:
                yield Finding("wrong", job.id, f"{picture.key} has another sha256 than its job says")
            if picture.wrong is not None:
                yield Finding("wrong", job.id, f"{picture.key} {picture.wrong}")
    promised = {job.id: set(job.picture_sha256) for job in evidence.jobs}
    for entry in evidence.entries:
        if entry.kind == "answered" and not set(entry.detail["sha256"]) <= promised.get(entry.job, set()):
            yield Finding("wrong", entry.job, "a client was given other pictures than those stored")


def find_bad_webhooks(evidence: Evidence) -> Iterator[Finding]:
    """Ends nobody was told of, ends told wrongly or too early, and signatures that are not true."""
    taken: dict[str, set[str]] = defaultdict(set)
    first_seen: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
    for delivery in evidence.deliveries:
        event, job_id = event_of(delivery)
        if (problem := why_untrue(delivery, evidence.secrets.get(delivery.tenant))) is not None:
            yield Finding("wrong", job_id, f"webhook {event}: {problem}")
            continue
        first_seen[job_id].setdefault((delivery.headers["webhook-id"], event), delivery.at_s)
        if delivery.is_taken:
            taken[job_id].add(event)
    for job in evidence.jobs:
        if job.tenant not in evidence.secrets or job.status not in FINAL:
            continue
        if f"job.{job.status}" not in taken[job.id]:
            yield Finding("wrong", job.id, f"its webhook job.{job.status} did not arrive")
        yield from _bad_order(job, first_seen[job.id])


def find_bad_ledgers(evidence: Evidence) -> Iterator[Finding]:
    """What the queue's shares say that a tenant has used, and what its jobs say.

    A killed Router takes a second of counting with it, so jobs of such rounds may be missing. An attempt that was lost
    has used the device all the same, so disturbed jobs may count for more than they say.
    """
    round_of = {entry.order: entry.round for entry in evidence.entries if entry.kind == "ordered"}
    for tenant, ledger_s in evidence.ledger_s.items():
        jobs = [job for job in evidence.jobs if job.tenant == tenant]
        least_s = sum(job.device_s for job in jobs if round_of.get(job.order) not in evidence.uncounted_rounds)
        dearest_s = max((job.device_s for job in jobs), default=0.0)
        disturbed = [job for job in jobs if job.attempts > 1 or job.status != "succeeded"]
        most_s = sum(job.device_s for job in jobs) + dearest_s * sum(job.attempts for job in disturbed)
        if not least_s * (1 - LEDGER_TOLERANCE) <= ledger_s <= most_s * (1 + LEDGER_TOLERANCE):
            said = f"its share counts {ledger_s:.2f} s, its jobs {least_s:.2f} to {most_s:.2f} s"
            yield Finding("wrong", tenant, said)


def find_hurt_callers(evidence: Evidence) -> Iterator[Finding]:
    """Clients that got an error although this fault spares those who wait."""
    for entry in evidence.entries:
        if entry.kind == "unanswered" and not entry.detail.get("is_meant"):
            yield Finding("wrong", entry.order, f"its caller got no answer: {entry.detail['error']}")
        if entry.kind == "refused" and entry.detail["status"] >= 500:
            said = f"{entry.detail['status']} {entry.detail['code'] or entry.detail['text'][:80]}"
            yield Finding("wrong", entry.order, f"its caller got {said}")


def accepted(evidence: Evidence) -> dict[str, str]:
    """Job → order, for every job of which a client has seen the id or a picture."""
    return {entry.job: entry.order for entry in evidence.entries if entry.kind == "accepted"}


def event_of(delivery: Delivery) -> tuple[str, str]:
    """Its type and the job it is about; empty where the body says neither."""
    try:
        body = json.loads(delivery.body)
        return str(body["type"]), str(body["data"]["id"])
    except (ValueError, KeyError, TypeError):
        return "", ""


def why_untrue(delivery: Delivery, secret: str | None) -> str | None:
    """What is wrong with a webhook's headers; None when its signature is true."""
    webhook_id = delivery.headers.get("webhook-id", "")
    try:
        sent_s = float(delivery.headers.get("webhook-timestamp", ""))
    except ValueError:
        return "no usable timestamp"
    if secret is None:
        return "came to somebody who asked for none"
    if abs(delivery.at_s - sent_s) > MAX_CLOCK_S:
        return f"its timestamp is {delivery.at_s - sent_s:.0f} s off"
    # sign() and not verify(): that one measures age by the clock of whoever reads the journal.
    true = Webhook(secret).sign(webhook_id, datetime.fromtimestamp(sent_s, UTC), delivery.body)
    return None if true in delivery.headers.get("webhook-signature", "").split() else "its signature is not true"


def _wishes_with_many_jobs(evidence: Evidence) -> Iterator[Finding]:
    by_order = defaultdict(set)
    for job in evidence.jobs:
        by_order[job.order].add(job.id)
    for entry in evidence.entries:
        if entry.kind == "accepted":
            by_order[entry.order].add(entry.job)
    for order_id, ids in by_order.items():
        if order_id and len(ids) > 1:
            yield Finding("doubled", order_id, f"has {len(ids)} jobs: {', '.join(sorted(ids))}")


def _ends_told_twice(evidence: Evidence) -> Iterator[Finding]:
    """The same event may come often, but its end is one event."""
    ends = defaultdict(set)
    for delivery in evidence.deliveries:
        event, job_id = event_of(delivery)
        if event.removeprefix("job.") in FINAL:
            ends[delivery.tenant, job_id].add((delivery.headers.get("webhook-id", ""), event))
    for (_, job_id), events in ends.items():
        if len(events) > 1:
            yield Finding("doubled", job_id, f"its end was told as {len(events)} events: {sorted(events)}")


def _may_be_cancelled(order: Order, evidence: Evidence) -> bool:
    """Whether somebody called it off: by word, by hanging up, or by a broken connection, which looks the same."""
    if order.way in {"cancel", "hang_up"}:
        return True
    is_broken = any(entry.kind == "unanswered" and entry.order == order.id for entry in evidence.entries)
    return is_broken and not order.is_keyed


def _bad_order(job: FoundJob, first_seen: dict[tuple[str, str], float]) -> Iterator[Finding]:
    ends = [at_s for (_, event), at_s in first_seen.items() if event.removeprefix("job.") in FINAL]
    late = [event for (_, event), at_s in first_seen.items() if ends and at_s > min(ends)]
    if late and len(ends) == 1:
        yield Finding("wrong", job.id, f"{', '.join(late)} arrived after its end")
