"""GET /v1/jobs and /v1/jobs/{id}, POST /v1/jobs/{id}/cancel: what became of one's requests, and calling them off."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query

from serving.api.deps import CurrentCaller, Services, ServicesDep
from serving.api.schemas import ErrorBody, ImageJobResult, JobBody, JobErrorBody, JobList, image_reference, job_request
from serving.jobs.job import Job, Kind, Status
from serving.telemetry import JOBS_ENDED, get_logger

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

log = get_logger("api")

MAX_PAGE = 100
TELL_ROUTER_S = 2.0


@router.get("")
async def list_jobs(
    services: ServicesDep,
    caller: CurrentCaller,
    status: Status | None = None,
    kind: Kind | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
    after: Annotated[str | None, Query(max_length=100, description="Id of the last job of the page before.")] = None,
) -> JobList:
    """Newest first."""
    jobs = await services.store.page(caller.tenant, status=status, kind=kind, limit=limit + 1, after=after)
    page = jobs[:limit]
    data = await asyncio.gather(*(job_body(services, job) for job in page))
    return JobList(
        data=data,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=len(jobs) > limit,
    )


@router.get("/{job_id}")
async def get_job(services: ServicesDep, caller: CurrentCaller, job_id: str) -> JobBody:
    return await job_body(services, await services.store.get(caller.tenant, job_id))


@router.post("/{job_id}/cancel", responses={409: {"model": ErrorBody}})
async def cancel_job(services: ServicesDep, caller: CurrentCaller, job_id: str) -> JobBody:
    """Calls a waiting or running job off. What was made of it is thrown away; a job that has ended answers 409."""
    before = await services.store.get(caller.tenant, job_id)
    job = await services.store.cancel(caller.tenant, job_id)
    if not before.is_final:
        JOBS_ENDED.labels(job.kind, job.model_id, job.status).inc()
        log.info("job cancelled", job_id=job.id, was=before.status)
        await services.router.cancel(job.id, timeout_s=TELL_ROUTER_S)
    return await job_body(services, job)


async def job_body(services: Services, job: Job) -> JobBody:
    """A job as clients see it; URLs are signed here, at the moment of asking."""
    result = None
    if job.result is not None:
        images = [
            image_reference(image, services.blobs.presign_get(image.key, expiry_s=services.settings.s3.url_expiry_s))
            for image in job.result.images
        ]
        result = ImageJobResult(images=images, inference_time_s=job.result.engine_s, queue_time_s=job.result.waited_s)
    return JobBody(
        id=job.id,
        kind=job.kind,
        status=job.status,
        progress=job.progress,
        step=job.step,
        steps=job.steps,
        created_at=int(job.created_at),
        started_at=None if job.started_at is None else int(job.started_at),
        finished_at=None if job.finished_at is None else int(job.finished_at),
        attempts=job.attempts,
        priority=job.priority,
        model=job.model_id,
        backend=job.backend,
        request=job_request(job),
        result=result,
        error=None if job.error is None else JobErrorBody(code=job.error.code, message=job.error.message),
        metadata=job.metadata,
        queue_position=await services.store.queue_position(job) if job.status == "queued" else None,
    )
