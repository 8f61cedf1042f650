"""What the server does to jobs by itself: takes leases from the dead, ends waits and lives, clears away.

`wake_at` says when a job wants to be looked at: a waiting one at its deadline, one that was put back when its wait is
over, a running one when its lease ends; `tidy_at` when there is something of an ended one to clear away.
Every step names the state it was decided on, so whoever comes second changes nothing.
"""

import time
from dataclasses import asdict
from typing import Any

from configs.settings import JobSettings
from serving.jobs.documents import job_from_document, job_to_document
from serving.jobs.job import TRANSITIONS, Job, JobError
from serving.jobs.retrying import given_up, got_further, max_lost_workers, retry_delay_s
from serving.jobs.store import at_its_end, in_line, out_of_line
from serving.mongo import Document, Mongo, readable

WORKER_LOST = JobError("worker_lost", "The process that worked on it was lost.")
MAX_ADOPTED = 1_000  # read at a time


class JobUpkeep:
    """The jobs collection as its caretaker sees it, across tenants."""

    def __init__(self, mongo: Mongo, settings: JobSettings) -> None:
        self._jobs = mongo.across_tenants("jobs", "drive_jobs")
        self._settings = settings

    async def due(self, *, limit: int) -> list[Job]:
        """Jobs that have not ended and whose moment has come, longest due first."""
        return await self._find("wake_at", time.time(), limit)

    async def to_tidy(self, *, limit: int) -> list[Job]:
        """Ended jobs of which there may be something to clear away, longest due first."""
        return await self._find("tidy_at", time.time(), limit)

    async def release(self, job: Job) -> bool:
        """Takes the lease from whoever held it and did not renew it; the job waits a little, or is given up."""
        assert job.status == "running", f"{job.id} is {job.status}: nobody has a lease on it"
        history = [asdict(attempt) for attempt in job.with_attempt(WORKER_LOST.code, WORKER_LOST.message)]
        lost_workers = job.lost_workers + (not got_further(job))
        changes: Document = {"history": history, "lost_workers": lost_workers}
        if lost_workers >= max_lost_workers(job, self._settings):
            error = given_up(lost_workers)
            changes |= {"status": "failed", "error": asdict(error), **at_its_end(self._settings)}
        else:
            delay_s = retry_delay_s(lost_workers, self._settings)
            changes |= {"status": "queued", **out_of_line(job, delay_s=delay_s)}
        return await self._change(job, changes, fences=True)

    async def promote(self, job: Job) -> bool:
        """Back into line: its wait is over."""
        assert job.status == "queued", f"{job.id} is {job.status} and does not wait"
        return await self._change(job, in_line(job))

    async def expire(self, job: Job) -> bool:
        """Ends a waiting job whose deadline has passed."""
        assert job.status == "queued", f"{job.id} is {job.status}: its driver ends it"
        waited_s = time.time() - job.created_at
        error = JobError("expired", f"Not finished within its deadline; {waited_s:.0f} s have passed.")
        return await self._change(job, {"status": "failed", "error": asdict(error), **at_its_end(self._settings)})

    async def tidy_again(self, job: Job, at: float) -> bool:
        """Done with an ended job for now; look at it again then. 0 is never."""
        assert job.is_final, f"{job.id} is {job.status}, and all that it has stored may be needed"
        return await self._change(job, {"tidy_at": at})

    async def delete(self, job: Job) -> bool:
        """Forgets an ended job. What it stored must be gone before."""
        assert job.is_final, f"{job.id} is {job.status}, and somebody waits for it"
        return await self._jobs.delete_one({"_id": job.id, "status": job.status, "fence": job.fence})

    async def exists(self, job_id: str) -> bool:
        """Whether there is such a job, of whatever tenant."""
        return await self._jobs.find_one({"_id": job_id}) is not None

    async def adopt(self) -> int:
        """Brings jobs that an older version stored into the form that queries rely on; returns how many. At start."""
        num_adopted, last_id = 0, ""
        is_old: Document = {"tenant_at": {"$exists": False}}
        while old := await self._jobs.find({**is_old, "_id": {"$gt": last_id}}, sort=[("_id", 1)], limit=MAX_ADOPTED):
            last_id = old[-1]["_id"]
            for job in readable(old, job_from_document):
                # Each is looked at soon: to end its wait or take its lease, or to clear away after it.
                document = job_to_document(job) | {"tidy_at" if job.is_final else "wake_at": time.time()}
                del document["_id"], document["tenant"]
                # Another Router may have adopted it, and work on it already.
                num_adopted += await self._jobs.update_one({"_id": job.id, **is_old}, {"$set": document})
        return num_adopted

    async def find_owed(self, *, limit: int) -> list[Job]:
        """Jobs whose state has news that are not on their way to webhooks yet, oldest news first."""
        return await self._find("owed_at", None, limit)

    async def clear_owed(self, job: Job) -> bool:
        """The news of this very state are on their way. False: there are newer ones, look again."""
        return await self._jobs.update_one({"_id": job.id, "owed_at": job.owed_at}, {"$set": {"owed_at": 0.0}})

    async def _find(self, moment: str, until: float | None, limit: int) -> list[Job]:
        """Jobs whose `moment` is set and not after `until`, earliest first."""
        is_set = {"$gt": 0} if until is None else {"$gt": 0, "$lte": until}
        found = await self._jobs.find({moment: is_set}, sort=[(moment, 1)], limit=limit)
        return readable(found, job_from_document)

    async def _change(self, job: Job, changes: dict[str, Any], *, fences: bool = False) -> bool:
        """`fences`: whoever still works on the job can write nothing more."""
        after = changes.get("status", job.status)
        assert after == job.status or after in TRANSITIONS[job.status], f"{job.id}: {job.status} → {after}"
        seen = {"_id": job.id, "status": job.status, "fence": job.fence}
        seen |= {"wake_at": job.wake_at, "tidy_at": job.tidy_at}
        update: dict[str, dict[str, Any]] = {"$set": changes}
        if fences:
            update["$inc"] = {"fence": 1}
        return await self._jobs.update_one(seen, update)
