"""The back half of a job: claim → choose → make → look → keep → end, under a lease that is renewed meanwhile.

Knows no HTTP and no Ray. One Driver serves a whole Router; drive() may run for many jobs at once.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace

import structlog

from configs.settings import JobSettings
from models.errors import BlobError, GenerationError
from pipelines.request import GenerationResult, Preview, Progress
from serving.backends.base import Backend, Made, Order
from serving.errors import BackendLost, LeaseLost, ModerationBlocked, NotFound, Unavailable
from serving.insisting import insist
from serving.jobs.feed import News
from serving.jobs.job import Job, JobError, Line
from serving.jobs.keeping import Keeper
from serving.jobs.retrying import MAY_PASS, given_up, got_further, max_lost_workers, retry_delay_s
from serving.jobs.routing import BackendState, choose_backend
from serving.jobs.store import Counter, JobStore
from serving.telemetry import (
    ENGINE_SECONDS,
    ENGINE_WAIT_SECONDS,
    IMAGES_MADE,
    JOB_SECONDS,
    JOBS_DRIVEN,
    JOBS_ENDED,
    get_logger,
)

log = get_logger("driver")

INSIST_LEASES = 2  # leases for which the end of an attempt is written again and again while the database is away
EXPIRED = JobError("expired", "Not finished within its deadline.")


def _to_nobody(_news: News) -> None:
    pass


class Driver:
    """Drives jobs to their end with the backends it was given."""

    def __init__(
        self,
        store: JobStore,
        keeper: Keeper,
        backends: Mapping[str, Backend],
        *,
        settings: JobSettings,
        owner: str,
    ) -> None:
        self._store = store
        self._keeper = keeper
        self._backends = backends
        self._settings = settings
        self._owner = owner
        self._num_driven = dict.fromkeys(backends, 0)

    async def claim(self, job_id: str) -> Job | None:
        """One job, ours from now on; None when it does not wait in line."""
        return await self._store.claim(job_id, owner=self._owner)

    async def claim_next(self, line: Line) -> Job | None:
        """The first job of a line, ours from now on; None when nobody stands there."""
        return await self._store.claim_next(line, owner=self._owner)

    async def drive(self, job: Job, *, waited_s: float, tell: Callable[[News], None] = _to_nobody) -> Job | None:
        """Runs a job that was claimed; its last known state, or None when it was cancelled or taken from us.

        `waited_s` is how long it stood in this Router's lane; it is told apart from the engine's own time.
        `tell` hears at once what the backend says on the way. Cancelling the task stops the backend.
        """
        with structlog.contextvars.bound_contextvars(job_id=job.id, tenant=job.tenant, request_id=job.request_id):
            log.info("job claimed", model=job.model_id, attempt=job.attempts)
            JOBS_DRIVEN.inc()
            try:
                if job.expires_at <= time.time():
                    ended = await self._fail(job, EXPIRED)
                else:
                    ended = await self._under_lease(job, self._run(job, waited_s, tell))
            except LeaseLost as error:
                log.warning("lease lost", reason=str(error))
                return None
            finally:
                JOBS_DRIVEN.dec()
            if ended.is_final:
                JOBS_ENDED.labels(job.kind, job.model_id, ended.status).inc()
                JOB_SECONDS.labels(job.kind, job.model_id).observe(time.time() - job.created_at)
                log.info("job ended", status=ended.status)
            return ended

    async def _run(self, job: Job, waited_s: float, tell: Callable[[News], None]) -> Job:
        backend_id: str | None = None
        try:
            backend = self._choose(job)
            backend_id = backend.id
            made = await self._make(job, backend, tell)
            return await self._commit(job, made, waited_s, backend)
        except GenerationError as error:
            trouble = JobError(error.code, str(error))
            if error.code in MAY_PASS and job.failures + 1 < self._settings.max_attempts:
                return await self._put_back(job, trouble, backend_id, counts="failures")
            return await self._fail(job, trouble, backend_id)
        except ModerationBlocked as error:
            return await self._fail(job, JobError(error.code, error.message), backend_id)
        except BackendLost as error:
            return await self._lose(job, str(error), backend_id)
        except (BlobError, Unavailable) as error:
            # The stores are away, or every engine. That says nothing of the job: it may try until its deadline.
            code = error.code if isinstance(error, Unavailable) else "storage_unavailable"
            return await self._put_back(job, JobError(code, str(error)), backend_id, counts=None)

    def _choose(self, job: Job) -> Backend:
        states = [
            BackendState(
                id=backend.id,
                model_ids=backend.model_ids,
                is_local=backend.is_local,
                num_driven=self._num_driven[backend.id],
            )
            for backend in self._backends.values()
        ]
        choice = choose_backend(job.model_id, states)
        log.debug("backend chosen", backend=choice.backend_id, reasons=choice.reasons)
        if choice.backend_id is None:
            raise GenerationError(f"No backend can make this: {'; '.join(choice.reasons)}")
        return self._backends[choice.backend_id]

    async def _make(self, job: Job, backend: Backend, tell: Callable[[News], None]) -> Made:
        # A job shorter than one period ends without a progress write: it would only delay the end.
        next_write_at = time.monotonic() + self._settings.progress_write_s

        async def on_progress(news: News) -> None:
            nonlocal next_write_at
            shown = await self._keeper.shown(job, news) if isinstance(news, Preview) else news
            if shown is not None:
                tell(shown)
            if isinstance(news, Progress) and (now := time.monotonic()) >= next_write_at:
                next_write_at = now + self._settings.progress_write_s
                try:
                    await self._store.write_progress(job, news)
                except Unavailable as error:
                    # The picture is worth more than the news of it; the final write decides, as after a missed beat.
                    log.warning("progress not written", reason=error.message)

        self._num_driven[backend.id] += 1
        try:
            order = Order(job.id, job.tenant, job.request, job.attempt_prefix, job.created_at)
            made = await backend.make(order, on_progress=on_progress)
        finally:
            self._num_driven[backend.id] -= 1
        ENGINE_SECONDS.labels(job.model_id).observe(made.engine_s)
        if isinstance(made, GenerationResult):
            IMAGES_MADE.labels(job.model_id).inc(len(made.images))
        return made

    async def _commit(self, job: Job, made: Made, waited_s: float, backend: Backend) -> Job:
        """Stores what was made and ends the job with it, or leaves nothing of it behind."""
        is_sent = is_committed = False
        try:
            ENGINE_WAIT_SECONDS.labels(job.model_id).observe(waited_s + made.waited_s)
            result = await self._keeper.keep(job, made, waited_s)
            is_sent = True
            ended = await self._insist(
                lambda: self._store.succeed(job, result, backend=backend.id, device_s=made.device_s)
            )
            is_committed = True
            return ended
        finally:
            if not is_committed and (not is_sent or await self._has_moved_on(job)):
                await self._keeper.discard(job)

    async def _has_moved_on(self, job: Job) -> bool:
        """Whether no write of this attempt can take effect any more, not even one that is still under way."""
        try:
            stored = await self._store.get(job.tenant, job.id)
        except (Unavailable, NotFound):
            return False
        return stored.fence != job.fence or stored.status not in {"running", "succeeded"}

    async def _fail(self, job: Job, error: JobError, backend_id: str | None = None) -> Job:
        log.warning("job failed", code=error.code, reason=error.message)
        return await self._insist(lambda: self._store.fail(job, error, backend=backend_id))

    async def _lose(self, job: Job, reason: str, backend_id: str | None) -> Job:
        """Whoever worked on it has died: the job is put back, or given up where that has happened too often."""
        told = await self._insist(lambda: self._store.get(job.tenant, job.id))
        job = replace(job, step=told.step)  # how far this attempt got is in the store alone
        counts: Counter | None = None if got_further(job) else "lost_workers"
        num_lost = job.lost_workers + (counts is not None)
        if num_lost < max_lost_workers(job, self._settings):
            return await self._put_back(job, JobError("backend_lost", reason), backend_id, counts=counts)
        return await self._fail(job, given_up(num_lost, last=reason), backend_id)

    async def _put_back(self, job: Job, error: JobError, backend_id: str | None, *, counts: Counter | None) -> Job:
        num_tries = job.attempts if counts is None else getattr(job, counts) + 1
        delay_s = retry_delay_s(num_tries, self._settings)
        log.warning("job put back", code=error.code, reason=error.message, delay_s=round(delay_s, 1))
        return await self._insist(
            lambda: self._store.put_back(job, error, delay_s=delay_s, backend=backend_id, counts=counts)
        )

    async def _insist(self, write: Callable[[], Awaitable[Job]]) -> Job:
        """Writes how an attempt ended, also when the database is away for a while: what was made is worth waiting for.

        Somebody may take the lease meanwhile; then the write that comes late is refused, as it must be.
        """
        for_s = INSIST_LEASES * self._settings.lease_s
        return await insist(write, for_s=for_s, pause_s=self._settings.poll_s, what="the end of the attempt")

    async def _under_lease(self, job: Job, work: Coroutine[None, None, Job]) -> Job:
        """Renews the lease while `work` runs. Stops it with LeaseLost; at its deadline the job fails."""
        running, beating = asyncio.create_task(work), asyncio.create_task(self._beat(job))
        try:
            left_s = max(0.0, job.expires_at - time.time())
            run_deadline_s = self._settings.lora_run_deadline_s if job.is_training else self._settings.run_deadline_s
            deadline_s = min(run_deadline_s, left_s)
            await asyncio.wait({running, beating}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                return running.result()
            if beating.done():
                beating.result()  # raises: a heartbeat only ever ends by losing the lease
            running.cancel()  # the backend is free before the job is told to have failed
            await asyncio.wait({running})
            if deadline_s == left_s:
                return await self._fail(job, EXPIRED)
            return await self._fail(job, JobError("deadline", f"Not finished after {deadline_s:g} s of work."))
        finally:
            running.cancel()
            beating.cancel()
            await asyncio.gather(running, beating, return_exceptions=True)

    async def _beat(self, job: Job) -> None:
        while True:
            await asyncio.sleep(self._settings.heartbeat_s)
            try:
                await self._store.renew(job)
            except Unavailable as error:
                # The database is away. Whether we still own the job shows at the next beat or at the final write.
                log.warning("heartbeat not written", reason=error.message)
