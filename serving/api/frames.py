"""POST /v1/frames: stills out of an uploaded video. 202 and the job, or 200 when it ended within `Prefer: wait=N`."""

from fastapi import APIRouter, Response

from serving.api.calls import CurrentCall
from serving.api.generations import answer_with_job
from serving.api.schemas import ErrorBody, FramesBody, JobBody

router = APIRouter(prefix="/v1/frames", tags=["frames"])


@router.post(
    "",
    status_code=202,
    responses={
        200: {"model": JobBody},
        404: {"model": ErrorBody},
        409: {"model": ErrorBody},
        422: {"model": ErrorBody},
        429: {"model": ErrorBody},
    },
)
async def take_frames(body: FramesBody, call: CurrentCall, response: Response) -> JobBody:
    """Accepts a job that chooses the best stills of a video; its result names each that was dropped, and why."""
    return await answer_with_job(call, body.wish(), response)
