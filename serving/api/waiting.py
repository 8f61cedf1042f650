"""Waiting for a job: through the Router that drives it, and by its record when that Router is lost."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from pipelines.request import Progress
from serving.api.deps import Services
from serving.errors import Unavailable
from serving.jobs.feed import News
from serving.jobs.job import Job

# Between two looks at the record of a job whose Router is lost: soon at first, and then a little less often.
FIRST_PAUSE_S, LONGEST_PAUSE_S, PAUSE_GROWTH = 0.1, 0.5, 1.3


async def wait_for(services: Services, job: Job, *, timeout_s: float) -> Job:
    """The job when it has ended, or as it stands after `timeout_s` or at a stop. It goes on either way."""
    deadline = time.monotonic() + timeout_s
    if job.is_final:
        return job
    driven = await services.router.drive(job, timeout_s=timeout_s)
    latest = driven or await _look(services, job) or job
    pause_s = FIRST_PAUSE_S
    while not await _is_decided(services, latest) and (left_s := deadline - time.monotonic()) > 0:
        await asyncio.sleep(min(pause_s, left_s))
        pause_s = min(LONGEST_PAUSE_S, pause_s * PAUSE_GROWTH)
        latest = await _look(services, job) or latest
    return latest


async def follow(services: Services, job: Job, *, timeout_s: float) -> AsyncGenerator[News | Job, None]:
    """What becomes of the job as it happens, and last the job: ended, or as it stands after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    latest, driven = job, None
    if not job.is_final and job.not_before <= time.time():  # to drive it is to claim it: not before its time
        async with aclosing(services.router.follow(job, timeout_s=timeout_s)) as told:
            async for news in told:
                if isinstance(news, Job):
                    latest = driven = news
                else:
                    yield news
    if driven is None:
        latest = await _look(services, job) or latest
    pause_s = FIRST_PAUSE_S
    while not await _is_decided(services, latest) and (left_s := deadline - time.monotonic()) > 0:
        if standing_of(latest) != standing_of(job):
            yield standing_of(latest)
        await asyncio.sleep(min(pause_s, left_s))
        pause_s = min(LONGEST_PAUSE_S, pause_s * PAUSE_GROWTH)
        job, latest = latest, await _look(services, job) or latest
    yield latest


def standing_of(job: Job) -> Progress:
    """How far a job is by its record."""
    return Progress(job.step, job.steps, share=job.progress / 100, stage=job.stage, loss=job.loss, eta_s=job.told_eta_s)


async def _is_decided(services: Services, job: Job) -> bool:
    """Whether to wait longer is of no use: it has ended, or it waits for the next start of a server that stops."""
    return job.is_final or (job.status == "queued" and (await services.board.glance()).is_draining)


async def _look(services: Services, job: Job) -> Job | None:
    """The record, or None while the database is away: the job is stored, so the caller may still get its picture."""
    try:
        return await services.store.get(job.tenant, job.id)
    except Unavailable:
        return None
