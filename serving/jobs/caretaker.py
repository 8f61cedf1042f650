"""Caretaker: clears away what ended jobs leave behind, and what is too old. Objects go first, documents after them.

Runs in every Router; one of them works at a time. Whatever it does may be done twice and may be broken off: what was
not done is found again.
"""

import asyncio
import time
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from configs.settings import JobSettings
from models.blobs import BlobStore
from models.errors import BlobError
from serving.adapters.store import AdapterStore
from serving.errors import AppError, Unavailable
from serving.jobs.chores import Chores
from serving.jobs.job import Job, input_prefix
from serving.jobs.retention import Clearing, clearing_due, leftovers, outputs_of
from serving.jobs.upkeep import JobUpkeep
from serving.telemetry import get_logger
from serving.tenancy.policies import TenantPolicies

log = get_logger("caretaker")

TEMP = "temp/"  # what jobs start from lies under it, by job
TIDY, SWEEP = "tidy_jobs", "sweep_old"
PAUSE_S = 5.0  # between passes, unless there is more to do
TURN_S = 20.0  # a pass that takes longer is broken off; after one that failed or died, anybody may try again then
SWEEP_EVERY_S = 3_600.0
RETRY_S = 60.0  # until a job is looked at again whose objects could not be removed
MAX_JOBS = 100  # a pass
NUM_TOGETHER = 8  # jobs whose objects are removed at the same time
MAX_TEMP_OBJECTS = 10_000  # looked at by one sweep; names begin with the time, so these are the oldest
MAX_OLD = 100  # documents deleted at a time
MAX_ROUNDS = 100  # of these a sweep


class KeepsForAWhile(Protocol):
    """A collection whose documents are forgotten after some time."""

    async def delete_old(self, *, limit: int) -> int:
        """Deletes up to `limit` whose time is over; how many there were."""
        ...


class Caretaker:
    """Two chores: ended jobs at their moments, and every hour what is old and belongs to nobody."""

    def __init__(
        self,
        upkeep: JobUpkeep,
        blobs: BlobStore,
        adapters: AdapterStore,
        policies: TenantPolicies,
        chores: Chores,
        *,
        forgetful: Sequence[KeepsForAWhile],
        prompt: Sequence[KeepsForAWhile] = (),
        settings: JobSettings,
    ) -> None:
        self._upkeep = upkeep
        self._blobs = blobs
        self._adapters = adapters
        self._policies = policies
        self._chores = chores
        self._forgetful = forgetful
        self._prompt = prompt  # what does not wait for the sweep
        self._settings = settings

    async def run_forever(self) -> None:
        """Passes with pauses between them. A store that is away ends a pass; the next goes on from there."""
        while True:
            is_more = False
            try:
                async with asyncio.timeout(TURN_S):
                    is_more = await self.work_once()
            except (AppError, BlobError, TimeoutError) as error:
                log.warning("broken off, goes on later", reason=str(error) or type(error).__name__)
            except Exception:  # the outermost loop: what is due must not stay so for ever
                log.exception("a pass failed")
            await asyncio.sleep(0 if is_more else PAUSE_S)

    async def work_once(self) -> bool:
        """One bounded pass of each chore that nobody else has; True when jobs are left that are due."""
        is_more = False
        if await self._chores.take(TIDY, for_s=TURN_S):
            is_more = await self.tidy()
            await self._chores.leave(TIDY)
        if await self._chores.take(SWEEP, for_s=TURN_S):
            await self.sweep()
            await self._chores.leave(SWEEP, for_s=SWEEP_EVERY_S)
        return is_more

    async def tidy(self) -> bool:
        """Clears away what is due of jobs and of what is prompt, and says whether there may be more of it."""
        is_more = False
        for collection in self._prompt:
            is_more |= await collection.delete_old(limit=MAX_JOBS) == MAX_JOBS
        jobs = await self._upkeep.to_tidy(limit=MAX_JOBS)
        for first in range(0, len(jobs), NUM_TOGETHER):
            some = jobs[first : first + NUM_TOGETHER]
            if not all(await asyncio.gather(*(self._tidy_after(job) for job in some))):
                return False  # the others would only wait for the same store
        return is_more or len(jobs) == MAX_JOBS

    async def sweep(self) -> None:
        """Removes old inputs of jobs that never came to be, and old documents of which nothing else keeps count."""
        before = time.time() - self._settings.temp_keep_s
        for job_id, keys in (await asyncio.to_thread(self._old_inputs, before)).items():
            if not await self._upkeep.exists(job_id):
                await asyncio.to_thread(self._blobs.delete_many, keys)
                log.info("inputs without a job removed", job_id=job_id, objects=len(keys))
        for collection in self._forgetful:
            for _ in range(MAX_ROUNDS):
                if await collection.delete_old(limit=MAX_OLD) < MAX_OLD:
                    break

    async def _tidy_after(self, job: Job) -> bool:
        """False: the object store did not do it. The job stays as it is and is looked at again."""
        keep_s = (await self._policies.of(job.tenant)).keep_jobs_s
        due = clearing_due(job, time.time(), keep_s=keep_s, temp_keep_s=self._settings.temp_keep_s)
        try:
            is_published = await self._is_published(job, due)
            await asyncio.to_thread(self._remove, job, due, keeps_outputs=is_published)
        except (BlobError, Unavailable) as error:
            log.warning("not cleared away", job_id=job.id, reason=str(error))
            await self._upkeep.tidy_again(job, time.time() + RETRY_S)
            return False
        if not due.everything:
            await self._upkeep.tidy_again(job, due.next_at)
        elif await self._upkeep.delete(job):
            log.info("job deleted", job_id=job.id, tenant=job.tenant, status=job.status)
        return True

    async def _is_published(self, job: Job, due: Clearing) -> bool:
        """Whether a training that was stopped has published all the same: then what it stored is the version's.

        If it has only begun to, that ends here.
        """
        if not job.is_training or job.status == "succeeded" or not (due.leftovers or due.everything):
            return False
        name, base_model = job.training.name, job.training.base_model
        return await self._adapters.end_trained(job.tenant, name=name, base_model=base_model, job=job.id)

    # In a thread: the object store blocks.

    def _remove(self, job: Job, due: Clearing, *, keeps_outputs: bool) -> None:
        if (due.leftovers or due.everything) and not keeps_outputs:
            keys = [blob.key for blob in self._blobs.list(job.output_prefix)]
            self._blobs.delete_many(outputs_of(job, keys) if due.everything else leftovers(job, keys))
        if due.inputs:
            self._blobs.delete_prefix(input_prefix(job.id))

    def _old_inputs(self, before: float) -> dict[str, list[str]]:
        """Keys of inputs that were stored before that moment, by job."""
        old: dict[str, list[str]] = {}
        for blob in islice(self._blobs.list(TEMP), MAX_TEMP_OBJECTS):
            if blob.modified_s < before:
                old.setdefault(blob.key.split("/")[1], []).append(blob.key)
        return old
