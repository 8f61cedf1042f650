"""Jobs in MongoDB: insert, look up, claim under a lease, write under a fence, end. Knows no backend and no HTTP.

A claim is one atomic update that raises `fence`; every later write of the claimer filters on that fence, so a
process that lost its lease can change nothing (docs/decisions.md). What the server does by itself, such as taking
the lease from the dead, is in upkeep.py.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from configs.settings import JobSettings
from pipelines.request import Progress
from serving.errors import Conflict, LeaseLost, NotFound, Unavailable
from serving.jobs.census import MAX_LINES, Census
from serving.jobs.documents import job_from_document, job_to_document, result_to_document
from serving.jobs.job import NOWHERE, TRANSITIONS, AnyResult, Job, JobError, Kind, Line, Status, place_in_line
from serving.mongo import Document, Mongo, under

Counter = Literal["failures", "lost_workers"]
# What an attempt begins with: nothing that the one before has told holds for it.
NOTHING_TOLD: Document = {"progress": 0, "step": 0, "stage": None, "loss": None, "told_eta_s": None}
# What every write that ends an attempt takes from a job.
AT_REST: Document = {"owner": None, "line": NOWHERE, "waits_of": NOWHERE}


def out_of_line(job: Job, *, delay_s: float) -> Document:
    """What a write says that lets a job wait for `delay_s` before it stands in line again."""
    not_before = time.time() + delay_s
    waiting = {**NOTHING_TOLD, "waits_of": job.tenant, "reached": max(job.reached, job.step)}
    return {**AT_REST, **waiting, "not_before": not_before, "wake_at": min(not_before, job.expires_at)}


def in_line(job: Job) -> Document:
    """What a write says that puts a job into its place in line, until its deadline."""
    return {"line": place_in_line(job), "waits_of": job.tenant, "not_before": 0.0, "wake_at": job.expires_at}


def at_its_end(settings: JobSettings) -> Document:
    """What the write that ends a job says beside the outcome: its news are owed, by this very write."""
    now = time.time()
    return {**AT_REST, "finished_at": now, "owed_at": now, "wake_at": 0.0, "tidy_at": now + settings.sweep_after_s}


class JobStore:
    """The jobs collection. Methods that take a tenant see only that tenant's jobs."""

    def __init__(self, mongo: Mongo, settings: JobSettings) -> None:
        self._mongo = mongo
        self._settings = settings
        self._census = Census(mongo)

    # What callers do, inside their tenant.

    async def insert(self, job: Job) -> None:
        """Raises Conflict when there is a job of this id."""
        await self._mongo.of_tenant("jobs", job.tenant).insert(job_to_document(job))

    async def get(self, tenant: str, job_id: str) -> Job:
        """Raises NotFound, for another tenant's job too."""
        document = await self._mongo.of_tenant("jobs", tenant).find_one({"_id": job_id})
        if document is None:
            raise NotFound(f"No job {job_id!r}.", param="id", code="job_not_found")
        return job_from_document(document)

    async def page(
        self, tenant: str, *, status: Status | None, kind: Kind | None, limit: int, after: str | None
    ) -> list[Job]:
        """Newest first; `after` is the id of the last job of the page before, NotFound where there is none such."""
        # Ids sort by time, so the tenant's jobs in order of age are one range of one indexed field.
        place = under(f"{tenant}/")
        if after is not None:
            place["$lt"] = f"{tenant}/{(await self.get(tenant, after)).id}"
        query: Document = {"tenant_at": place}
        if status is not None:
            query["status"] = status
        if kind is not None:
            query["kind"] = kind
        jobs = self._mongo.of_tenant("jobs", tenant)
        documents = await jobs.find(query, sort=[("tenant_at", -1)], limit=limit)
        return [job_from_document(document) for document in documents]

    async def cancel(self, tenant: str, job_id: str) -> Job:
        """The job, cancelled now or before. Raises NotFound, or Conflict when it has ended otherwise."""
        document = await self._mongo.of_tenant("jobs", tenant).find_one_and_update(
            {"_id": job_id, "status": {"$in": ["queued", "running"]}},
            # Whoever drives it cannot write any more: every write asks for a running job.
            {"$set": {"status": "cancelled", **at_its_end(self._settings)}},
        )
        if document is not None:
            return job_from_document(document)
        job = await self.get(tenant, job_id)
        if job.status != "cancelled":
            raise Conflict(f"The job has {job.status} already; there is nothing to cancel.", code="job_ended")
        return job

    async def retry(self, tenant: str, job_id: str, *, expires_at: float) -> Job:
        """A failed job, waiting again with a new life. Raises NotFound, or Conflict for one that has not failed.

        Unavailable while the news of its failure are not on their way yet: a new life would swallow them.
        """
        job = await self.get(tenant, job_id)
        if job.status != "failed":
            raise Conflict(f"Only a failed job can be retried; this one is {job.status}.", code="job_not_failed")
        document = await self._mongo.of_tenant("jobs", tenant).find_one_and_update(
            {"_id": job_id, "status": "failed", "fence": job.fence, "owed_at": {"$lte": 0}},
            {
                "$set": {
                    "status": "queued",
                    **in_line(replace(job, expires_at=expires_at)),
                    "expires_at": expires_at,
                    "tidy_at": 0.0,
                    "failures": 0,
                    "lost_workers": 0,
                    "reached": 0,
                    **NOTHING_TOLD,
                    "error": None,
                    "started_at": None,
                    "finished_at": None,
                },
                "$inc": {"lives": 1, "fence": 1},
            },
        )
        if document is None:
            raise Unavailable("The end of this job is still being announced.", code="job_announcing", retry_after_s=1)
        return job_from_document(document)

    async def count_queued(self, tenant: str | None = None) -> int:
        """Waiting jobs of a tenant, or of all."""
        waits_of = {"$gt": NOWHERE} if tenant is None else {"$gte": tenant, "$lte": tenant}
        return await self._mongo.across_tenants("jobs", "count_queue").count({"waits_of": waits_of})

    async def queue_position(self, job: Job) -> int:
        """How many waiting jobs of the same model are expected to go first under fair shares; 0 is next."""
        return await self._census.position(job)

    # What a Router does, for all tenants.

    async def heads(self, model_ids: Sequence[str], *, limit: int = MAX_LINES) -> dict[Line, str]:
        """The lines in which jobs wait, and the first job of each. Reads only; a claim decides who gets one."""
        return await self._census.heads(model_ids, limit=limit)

    async def claim(self, job_id: str, *, owner: str) -> Job | None:
        """Makes `owner` the one who drives this job, if it waits in line; else None."""
        return await self._claim({"_id": job_id, "line": {"$gt": NOWHERE}}, owner)

    async def claim_next(self, line: Line, *, owner: str) -> Job | None:
        """Makes `owner` the one who drives the first job of the line; None when nobody stands there any more."""
        return await self._claim({"line": under(line.prefix)}, owner)

    async def _claim(self, query: Document, owner: str) -> Job | None:
        now = time.time()
        update = {
            "$set": {
                **AT_REST,
                **NOTHING_TOLD,
                "status": "running",
                "owner": owner,
                "started_at": now,
                "wake_at": now + self._settings.lease_s,
                "owed_at": now,
            },
            "$inc": {"attempts": 1, "fence": 1},
        }
        document = await self._mongo.across_tenants("jobs", "drive_jobs").find_one_and_update(
            {**query, "status": "queued"}, update, sort=[("line", 1)]
        )
        return None if document is None else job_from_document(document)

    async def renew(self, job: Job) -> None:
        """The heartbeat. Raises LeaseLost when somebody else owns the job."""
        await self._write(job, {"wake_at": time.time() + self._settings.lease_s})

    async def write_progress(self, job: Job, news: Progress) -> None:
        """How far this attempt is, and what it took of the device so far; renews the lease too."""
        counts = {"step": news.step, "steps": news.steps, "progress": news.percent}
        told = {"stage": news.stage, "loss": news.loss, "told_eta_s": news.eta_s}
        spent = {"device_s": job.device_s + news.device_s, "wake_at": time.time() + self._settings.lease_s}
        await self._write(job, {**counts, **told, **spent})

    async def succeed(self, job: Job, result: AnyResult, *, backend: str, device_s: float) -> Job:
        """The commit: from here on the result exists."""
        made = {"result": result_to_document(result), "backend": backend, "progress": 100, "step": job.steps}
        return await self._move(
            job, "succeeded", {**made, "device_s": job.device_s + device_s, **at_its_end(self._settings)}
        )

    async def fail(self, job: Job, error: JobError, *, backend: str | None = None) -> Job:
        """The end of a job that cannot be made, with what was tried."""
        history = [asdict(attempt) for attempt in job.with_attempt(error.code, error.message, backend=backend)]
        return await self._move(
            job, "failed", {"error": asdict(error), "history": history, **at_its_end(self._settings)}
        )

    async def put_back(
        self, job: Job, error: JobError, *, delay_s: float, backend: str | None, counts: Counter | None
    ) -> Job:
        """Back to the queue, out of line for `delay_s`. `counts` names the counter of attempts that it goes on."""
        history = [asdict(attempt) for attempt in job.with_attempt(error.code, error.message, backend=backend)]
        changes = {**out_of_line(job, delay_s=delay_s), "history": history}
        if counts is not None:
            changes[counts] = getattr(job, counts) + 1
        return await self._move(job, "queued", changes)

    async def hand_back(self, job: Job) -> Job:
        """Back into its place in line, with no blame: whoever drives it must go."""
        return await self._move(job, "queued", {**AT_REST, **in_line(job), **NOTHING_TOLD})

    async def _move(self, job: Job, status: Status, changes: dict[str, Any]) -> Job:
        assert status in TRANSITIONS["running"], f"{job.id}: running → {status} is not allowed"
        return await self._write(job, {"status": status, **changes})

    async def _write(self, job: Job, changes: dict[str, Any]) -> Job:
        document = await self._mongo.across_tenants("jobs", "drive_jobs").find_one_and_update(
            {"_id": job.id, "fence": job.fence, "status": "running"}, {"$set": changes}
        )
        if document is None:
            raise LeaseLost(f"{job.id}: fence {job.fence} is no longer the newest, or the job has ended")
        return job_from_document(document)
