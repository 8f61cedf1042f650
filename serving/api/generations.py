"""POST /v1/generate/image: the native call. 202 and the job, or 200 when it ended within `Prefer: wait=N`."""

from fastapi import APIRouter, Response

from serving.api.calls import Call, CurrentCall
from serving.api.jobs import job_body, where_to_ask
from serving.api.schemas import ErrorBody, GenerateImageBody, JobBody
from serving.api.waiting import wait_for
from serving.jobs.admission import AnyWish

router = APIRouter(prefix="/v1/generate", tags=["generate"])


@router.post(
    "/image",
    status_code=202,
    responses={
        200: {"model": JobBody},
        404: {"model": ErrorBody},
        422: {"model": ErrorBody},
        429: {"model": ErrorBody},
    },
)
async def generate_image(body: GenerateImageBody, call: CurrentCall, response: Response) -> JobBody:
    """Accepts a job and keeps it, whether or not anybody waits for it."""
    return await answer_with_job(call, body.wish(), response)


async def answer_with_job(call: Call, wish: AnyWish, response: Response) -> JobBody:
    """The job of the wish, as it stands once it has ended or the caller has waited for as long as it likes to."""
    wait_s = call.longest_wait_s
    job = await call.submit(wish)
    if not job.is_final and wait_s == 0:
        call.services.router.push(job)
    elif not job.is_final:
        job = await wait_for(call.services, job, timeout_s=wait_s)
    if job.is_final:
        response.status_code = 200
    else:
        response.headers.update(where_to_ask(job))
    return await job_body(call.services, job)
