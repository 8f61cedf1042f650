"""POST /v1/images/generations: OpenAI's image call. It submits a job and waits for it: there is no second path."""

import asyncio
import base64

from fastapi import APIRouter, Response

from models.errors import BlobError
from serving.api.deps import CurrentCaller, RequestId, Services, ServicesDep
from serving.api.schemas import ErrorBody, ImageData, ImagesResponse, OpenAIImageBody
from serving.api.waiting import wait_for
from serving.errors import JobFailed, Unavailable
from serving.jobs.job import StoredImage

router = APIRouter(prefix="/v1/images", tags=["images"])


@router.post(
    "/generations", responses={400: {"model": ErrorBody}, 404: {"model": ErrorBody}, 429: {"model": ErrorBody}}
)
async def generate(
    body: OpenAIImageBody, services: ServicesDep, caller: CurrentCaller, request_id: RequestId, response: Response
) -> ImagesResponse:
    """Makes pictures from a prompt and answers when they are there."""
    body.check_supported()
    submitted = await services.submission.submit_image(caller, body.wish(user=body.user), request_id=request_id)
    job = await wait_for(services, submitted, timeout_s=services.settings.api.sync_deadline_s)
    if job.status in {"failed", "cancelled"}:
        code, message = (job.error.code, job.error.message) if job.error else (job.status, f"The job was {job.status}.")
        raise JobFailed(f"{message} (job {job.id})", code=code)
    if job.result is None:
        raise Unavailable(
            f"Not finished yet; the job goes on. Ask GET /v1/jobs/{job.id}.", retry_after_s=30, code="still_running"
        )
    wants_bytes = body.response_format == "b64_json"
    data = await asyncio.gather(*(_image_data(services, image, wants_bytes=wants_bytes) for image in job.result.images))
    response.headers["Server-Timing"] = (
        f"engine;dur={job.result.engine_s * 1000:.2f}, queue;dur={job.result.waited_s * 1000:.2f}"
    )
    return ImagesResponse(
        created=int(job.finished_at or job.created_at),
        data=data,
        size=f"{job.request.width_px}x{job.request.height_px}",
        output_format=job.request.output_format,
        quality=body.quality or "auto",
        background="opaque",
        job_id=job.id,
        inference_time_s=job.result.engine_s,
    )


async def _image_data(services: Services, image: StoredImage, *, wants_bytes: bool) -> ImageData:
    if not wants_bytes:
        url = services.blobs.presign_get(image.key, expiry_s=services.settings.s3.url_expiry_s)
        return ImageData(url=url, seed=image.seed)
    try:
        content = await asyncio.to_thread(services.blobs.get, image.key)
    except BlobError as error:
        raise Unavailable(
            "The picture is stored but the object store did not answer.", code="storage_unavailable"
        ) from error
    return ImageData(b64_json=base64.b64encode(content).decode(), seed=image.seed)
