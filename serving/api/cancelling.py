"""Calling a job off: in the store, where it counts, and at the Router, which frees the engine."""

from serving.api.deps import Services
from serving.jobs.job import Job
from serving.telemetry import JOBS_ENDED, get_logger

log = get_logger("api")

TELL_ROUTER_S = 2.0


async def call_off(services: Services, tenant: str, job_id: str) -> Job:
    """The job, cancelled now or before. Raises NotFound, or Conflict when it has ended otherwise."""
    before = await services.store.get(tenant, job_id)
    job = await services.store.cancel(tenant, job_id)
    if not before.is_final:
        JOBS_ENDED.labels(job.kind, job.model_id, job.status).inc()
        log.info("job cancelled", job_id=job.id, was=before.status)
        await services.router.cancel(job.id, timeout_s=TELL_ROUTER_S)
    return job
