"""A failed job, tried again because somebody asks for it: once per asking, and only where that makes sense."""

import asyncio
import time
from dataclasses import dataclass

from configs.settings import JobSettings
from models.blobs import BlobStore
from models.errors import BlobError
from serving.errors import Conflict, Unavailable
from serving.jobs.admission import Admission
from serving.jobs.idempotency import IdempotencyKeys, fingerprint_of
from serving.jobs.job import Job
from serving.jobs.store import JobStore
from serving.jobs.submission import Accepted, RequestKey
from serving.telemetry import get_logger
from serving.tenancy.auth import Caller

log = get_logger("submission")

# The news of a failure are on their way to webhooks within moments; until then the job cannot begin anew.
ANNOUNCED_WITHIN_S = 5.0
PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class SecondChances:
    """POST /v1/jobs/{id}/retry without its HTTP."""

    store: JobStore
    blobs: BlobStore
    keys: IdempotencyKeys
    admission: Admission
    settings: JobSettings

    async def give(self, caller: Caller, job_id: str, *, key: RequestKey | None = None) -> Accepted:
        """The job, waiting again. Raises NotFound, or Conflict where it has not failed or its files are gone.

        With a key that was used before, the job as it stands: what an asking stands for is the number of the life that
        it begins, so whoever asks again finds that this life has begun, or begins it.
        """
        job = await self.store.get(caller.tenant, job_id)
        life, fingerprint = job.lives + 1, ""
        if key is not None:
            fingerprint = fingerprint_of(key.route, {"job": job_id})
            if (held := await self.keys.find(caller.tenant, key.text, fingerprint=fingerprint)) is not None:
                life = int(held.id)
        if job.lives >= life:
            return Accepted(job, is_replay=True)
        if job.status != "failed":
            raise _not_failed(job)
        await self._check_inputs(job)
        await self.admission.make_room(caller.tenant)
        if key is not None:
            held = await self.keys.reserve(caller.tenant, key.text, fingerprint=fingerprint, new_id=str(life))
            life = int(held.id)
        begun = await self._begin(job, life)
        if begun.is_replay and key is None:  # somebody else asked at the same moment
            raise _not_failed(begun.job)
        return begun

    async def _check_inputs(self, job: Job) -> None:
        """What an edit starts from is kept for a day, an upload until somebody deletes it."""
        files = [file.key for file in job.request.needs]
        try:
            are_there = await asyncio.to_thread(lambda: [self.blobs.exists(key) for key in files])
        except BlobError as error:
            raise Unavailable("The object store did not answer.", code="storage_unavailable") from error
        if not all(are_there):
            raise Conflict("The files that this job starts from are gone. Send it again.", code="job_inputs_gone")

    async def _begin(self, job: Job, life: int) -> Accepted:
        """The job at the beginning of that life, or further on where somebody else began it just now."""
        gives_up_at = time.monotonic() + ANNOUNCED_WITHIN_S
        while True:
            job = await self.store.get(job.tenant, job.id)
            if job.lives >= life:
                return Accepted(job, is_replay=True)
            try:
                expires_at = time.time() + self.settings.max_age_s
                job = await self.store.retry(job.tenant, job.id, expires_at=expires_at)
            except (Conflict, Unavailable) as error:
                may_pass = isinstance(error, Conflict) or error.code == "job_announcing"
                if not may_pass or time.monotonic() > gives_up_at:
                    raise
                await asyncio.sleep(PAUSE_S)
            else:
                log.info("job retried", job_id=job.id, life=job.lives)
                return Accepted(job)


def _not_failed(job: Job) -> Conflict:
    return Conflict(f"Only a failed job can be retried; this one is {job.status}.", code="job_not_failed")
