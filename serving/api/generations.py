"""POST /v1/generate/image: the native call. 202 and the job, or 200 when it ended within `Prefer: wait=N`."""

import re
from typing import Annotated

from fastapi import APIRouter, Header, Response

from serving.api.deps import CurrentCaller, RequestId, ServicesDep
from serving.api.jobs import job_body
from serving.api.schemas import ErrorBody, GenerateImageBody, JobBody
from serving.api.waiting import wait_for
from serving.errors import BadInput

router = APIRouter(prefix="/v1/generate", tags=["generate"])

WAIT = re.compile(r"(?:^|[,;\s])wait=([0-9]{1,9})(?:$|[,;\s])")


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
async def generate_image(
    body: GenerateImageBody,
    services: ServicesDep,
    caller: CurrentCaller,
    request_id: RequestId,
    response: Response,
    prefer: Annotated[str, Header(description="wait=N: answer 200 if the job ends within N seconds.")] = "",
) -> JobBody:
    wait_s = _wait_s(prefer, longest_s=services.settings.api.max_wait_s)
    job = await services.submission.submit_image(caller, body.wish(), request_id=request_id)
    if wait_s == 0:
        services.router.push(job)
    else:
        job = await wait_for(services, job, timeout_s=wait_s)
    if job.is_final:
        response.status_code = 200
    else:
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        response.headers["Retry-After"] = "1"
    return await job_body(services, job)


def _wait_s(prefer: str, *, longest_s: int) -> int:
    """N of `Prefer: wait=N` (RFC 7240); other preferences are none of ours."""
    match = WAIT.search(prefer)
    if match is None:
        return 0
    if int(match[1]) > longest_s:
        raise BadInput(f"Prefer: wait may be at most {longest_s} seconds.", param="Prefer")
    return int(match[1])
