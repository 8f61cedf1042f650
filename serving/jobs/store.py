"""Jobs in MongoDB: insert, look up, claim under a lease, write under a fence, end. Knows no backend and no HTTP.

A claim is one atomic update that raises `fence`; every later write of the claimer filters on that fence, so a
process that lost its lease can change nothing (docs/decisions.md).
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from configs.settings import JobSettings
from serving.errors import Conflict, LeaseLost, NotFound
from serving.jobs.job import (
    PRIORITY_RANK,
    TRANSITIONS,
    Job,
    JobError,
    JobResult,
    Kind,
    Status,
    job_from_document,
    job_to_document,
    result_to_document,
)
from serving.mongo import Document, Mongo
from serving.telemetry import get_logger

log = get_logger("store")

OLDEST_FIRST = (("priority_rank", 1), ("created_at", 1))


class JobStore:
    """The jobs collection. Methods that take a tenant see only that tenant's jobs."""

    def __init__(self, mongo: Mongo, settings: JobSettings) -> None:
        self._mongo = mongo
        self._settings = settings

    # What callers do, inside their tenant.

    async def insert(self, job: Job) -> None:
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
        query: Document = {}
        if status is not None:
            query["status"] = status
        if kind is not None:
            query["kind"] = kind
        if after is not None:
            last = await self.get(tenant, after)
            # Ids start with the time in milliseconds, so they order jobs of one instant too.
            query["$or"] = [
                {"created_at": {"$lt": last.created_at}},
                {"created_at": last.created_at, "_id": {"$lt": last.id}},
            ]
        jobs = self._mongo.of_tenant("jobs", tenant)
        documents = await jobs.find(query, sort=[("created_at", -1), ("_id", -1)], limit=limit)
        return [job_from_document(document) for document in documents]

    async def cancel(self, tenant: str, job_id: str) -> Job:
        """The job, cancelled now or before. Raises NotFound, or Conflict when it has ended otherwise."""
        document = await self._mongo.of_tenant("jobs", tenant).find_one_and_update(
            {"_id": job_id, "status": {"$in": ["queued", "running"]}},
            # Whoever drives it cannot write any more: every write asks for a running job.
            {"$set": {"status": "cancelled", "finished_at": time.time(), "owner": None}},
        )
        if document is not None:
            return job_from_document(document)
        job = await self.get(tenant, job_id)
        if job.status != "cancelled":
            raise Conflict(f"The job has {job.status} already; there is nothing to cancel.", code="job_ended")
        return job

    async def count_queued(self, tenant: str | None = None) -> int:
        """Waiting jobs of a tenant, or of all."""
        jobs = (
            self._mongo.across_tenants("jobs", "count_queue")
            if tenant is None
            else self._mongo.of_tenant("jobs", tenant)
        )
        return await jobs.count({"status": "queued"})

    async def queue_position(self, job: Job) -> int:
        """How many waiting jobs of the same model go first; 0 is next."""
        rank = PRIORITY_RANK[job.priority]
        jobs = self._mongo.across_tenants("jobs", "count_queue")
        waiting = {"status": "queued", "model": job.model_id}
        more_urgent, older = await asyncio.gather(
            jobs.count({**waiting, "priority_rank": {"$lt": rank}}),
            jobs.count({**waiting, "priority_rank": rank, "created_at": {"$lt": job.created_at}}),
        )
        return more_urgent + older

    # What a Router does, for all tenants.

    async def claim(self, job_id: str, *, owner: str) -> Job | None:
        """Makes `owner` the one who drives this job, if it waits or its lease ran out; else None."""
        now = time.time()
        jobs = self._mongo.across_tenants("jobs", "drive_jobs")
        lease_until = now + self._settings.lease_s
        update: dict[str, dict[str, Any]] = {
            "$set": {"status": "running", "owner": owner, "lease_until": lease_until, "started_at": now},
            "$inc": {"attempts": 1, "fence": 1},
        }
        # Two plain steps, for no write may filter by $or (serving/mongo.py). Each is atomic by itself.
        document = await jobs.find_one_and_update({"_id": job_id, "status": "queued"}, update)
        if document is None:
            lapsed = {"_id": job_id, "status": "running", "lease_until": {"$lt": now}}
            update["$inc"]["lost_workers"] = 1
            document = await jobs.find_one_and_update(lapsed, update)
        return None if document is None else job_from_document(document)

    async def find_undriven(self, model_ids: Sequence[str], *, limit: int) -> list[Job]:
        """Jobs that wait or whose lease ran out, best first. Reads only; claim() decides who gets one."""
        jobs = self._mongo.across_tenants("jobs", "drive_jobs")
        of_models = {"model": {"$in": list(model_ids)}}
        now = time.time()
        lapsed = {"status": "running", "lease_until": {"$lt": now}, **of_models}
        waiting = {"status": "queued", "not_before": {"$lte": now}, **of_models}
        found = [
            *await jobs.find(lapsed, sort=OLDEST_FIRST, limit=limit),
            *await jobs.find(waiting, sort=OLDEST_FIRST, limit=limit),
        ]
        return [job for document in found if (job := _read(document)) is not None]

    async def renew(self, job: Job) -> None:
        """The heartbeat. Raises LeaseLost when somebody else owns the job."""
        await self._write(job, {"lease_until": time.time() + self._settings.lease_s})

    async def write_progress(self, job: Job, *, step: int, steps: int, progress: int) -> None:
        lease_until = time.time() + self._settings.lease_s
        await self._write(job, {"step": step, "steps": steps, "progress": progress, "lease_until": lease_until})

    async def succeed(self, job: Job, result: JobResult, *, backend: str) -> Job:
        """The commit: from here on the result exists."""
        return await self._move(
            job,
            "succeeded",
            {
                "result": result_to_document(result),
                "backend": backend,
                "progress": 100,
                "step": job.steps,
                "finished_at": time.time(),
                "owner": None,
            },
        )

    async def fail(self, job: Job, error: JobError) -> Job:
        return await self._move(job, "failed", {"error": asdict(error), "finished_at": time.time(), "owner": None})

    async def put_back(self, job: Job, *, delay_s: float, is_worker_lost: bool) -> Job:
        """Back to the queue, its place kept, not to be run again within `delay_s`."""
        return await self._move(
            job,
            "queued",
            {
                "owner": None,
                "progress": 0,
                "step": 0,
                "not_before": time.time() + delay_s,
                "lost_workers": job.lost_workers + is_worker_lost,
            },
        )

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


def _read(document: Document) -> Job | None:
    """The job, or None for a document that this version cannot read: it must not stop the work on all others."""
    try:
        return job_from_document(document)
    except (KeyError, TypeError, ValueError):
        log.exception("job document not understood", job_id=document.get("_id"))
        return None
