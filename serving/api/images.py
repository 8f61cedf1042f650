"""POST /v1/images/generations: OpenAI's image call. It submits a job and waits for it: there is no second path."""

from fastapi import APIRouter, Response

from serving.api.deps import CurrentCaller, RequestId, ServicesDep
from serving.api.image_answers import answer
from serving.api.schemas import ErrorBody, ImagesResponse, OpenAIImageBody
from serving.api.sse import EventStream

router = APIRouter(prefix="/v1/images", tags=["images"])


@router.post(
    "/generations",
    response_model=ImagesResponse,
    responses={400: {"model": ErrorBody}, 404: {"model": ErrorBody}, 429: {"model": ErrorBody}},
)
async def generate(
    body: OpenAIImageBody, services: ServicesDep, caller: CurrentCaller, request_id: RequestId, response: Response
) -> ImagesResponse | EventStream:
    """Makes pictures from a prompt and answers when they are there; with `stream`, events on the way."""
    job = await services.submission.submit_image(caller, body.wish(), request_id=request_id)
    return await answer(services, job, body, "image_generation", response)
