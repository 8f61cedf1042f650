"""POST /v1/images/generations: OpenAI's image call. It submits a job and waits for it: there is no second path."""

from fastapi import APIRouter, Response
from starlette.responses import JSONResponse

from serving.api.calls import CurrentCall
from serving.api.image_answers import answer
from serving.api.schemas import ErrorBody, ImagesResponse, JobBody, OpenAIImageBody
from serving.api.sse import EventStream

router = APIRouter(prefix="/v1/images", tags=["images"])


@router.post(
    "/generations",
    response_model=ImagesResponse,
    responses={
        202: {"model": JobBody},
        400: {"model": ErrorBody},
        404: {"model": ErrorBody},
        429: {"model": ErrorBody},
    },
)
async def generate(
    body: OpenAIImageBody, call: CurrentCall, response: Response
) -> ImagesResponse | EventStream | JSONResponse:
    """Makes pictures from a prompt and answers when they are there; with `stream`, events on the way.

    Hanging up calls the job off, unless the request had an idempotency key or preferred `respond-async`.
    """
    return await answer(call, body.wish(), body, "image_generation", response)
