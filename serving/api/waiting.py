"""Waiting for a job: through the Router that drives it, and by its record when that Router is lost."""

import asyncio
import time

from serving.api.deps import Services
from serving.jobs.job import Job

FOLLOW_POLL_S = 0.25


async def wait_for(services: Services, job: Job, *, timeout_s: float) -> Job:
    """The job when it has ended, or as it stands after `timeout_s`. It goes on either way."""
    deadline = time.monotonic() + timeout_s
    driven = await services.router.drive(job, timeout_s=timeout_s)
    latest = driven if driven is not None else await services.store.get(job.tenant, job.id)
    while not latest.is_final and time.monotonic() < deadline:
        await asyncio.sleep(FOLLOW_POLL_S)
        latest = await services.store.get(job.tenant, job.id)
    return latest
