"""/v1/jobs: what became of one's requests, calling them off, and having failed ones tried again."""

import asyncio
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from serving.api.calls import CurrentCall
from serving.api.cancelling import call_off
from serving.api.deps import CurrentCaller, Services, ServicesDep, open_for_work
from serving.api.schemas import ErrorBody, JobBody, JobList
from serving.api.schemas.jobs import job_body_of
from serving.jobs.job import Job, Kind, Status

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

MAX_PAGE = 100


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
    return await job_body(services, await call_off(services, caller.tenant, job_id))


@router.post(
    "/{job_id}/retry",
    status_code=202,
    dependencies=[Depends(open_for_work)],
    responses={409: {"model": ErrorBody}, 429: {"model": ErrorBody}},
)
async def retry_job(call: CurrentCall, job_id: str, response: Response) -> JobBody:
    """Has a failed job tried again, with a new deadline and its history kept. Any other job answers 409."""
    job = call.taken(await call.services.second_chances.give(call.caller, job_id, key=call.key))
    if not job.is_final:
        call.services.router.push(job)
    response.headers.update(where_to_ask(job))
    return await job_body(call.services, job)


def where_to_ask(job: Job) -> dict[str, str]:
    """Headers of an answer that the result will not be in."""
    return {"Location": f"/v1/jobs/{job.id}", "Retry-After": "1"}


async def job_body(services: Services, job: Job) -> JobBody:
    """A job as clients see it; URLs are signed here, at the moment of asking."""
    outlook = await services.forecast.of(job)
    sign = partial(services.blobs.presign_get, expiry_s=services.settings.s3.url_expiry_s)
    return job_body_of(job, sign=sign, queue_position=outlook.queue_position, eta_s=outlook.eta_s)
