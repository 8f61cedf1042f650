"""Waiting for a job: through the Router that drives it, and by its record when that Router is lost."""

import asyncio
import time

from serving.api.deps import Services
from serving.errors import Unavailable
from serving.jobs.job import Job

FOLLOW_POLL_S = 0.25


async def wait_for(services: Services, job: Job, *, timeout_s: float) -> Job:
    """The job when it has ended, or as it stands after `timeout_s`. It goes on either way."""
    deadline = time.monotonic() + timeout_s
    driven = await services.router.drive(job, timeout_s=timeout_s)
    latest = driven or await _look(services, job) or job
    while not latest.is_final and time.monotonic() < deadline:
        await asyncio.sleep(FOLLOW_POLL_S)
        latest = await _look(services, job) or latest
    return latest


async def _look(services: Services, job: Job) -> Job | None:
    """The record, or None while the database is away: the job is stored, so the caller may still get its picture."""
    try:
        return await services.store.get(job.tenant, job.id)
    except Unavailable:
        return None
