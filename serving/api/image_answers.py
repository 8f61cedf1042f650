"""How a picture job is answered in OpenAI's shape: whole when it is done, or as a stream while it is made."""

import asyncio
import base64
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal

from fastapi import Response
from starlette.responses import JSONResponse

from models.errors import AdapterError, AdapterGone, BlobError, InputImageError
from pipelines.request import CONTENT_TYPES, Preview
from serving.api.calls import Call
from serving.api.deps import Services
from serving.api.jobs import job_body, where_to_ask
from serving.api.schemas import ImageData, ImagesResponse, OpenAIImageBody
from serving.api.sse import EventStream, event
from serving.api.waiting import follow, wait_for
from serving.errors import BadInput, JobCancelled, JobFailed, ModerationBlocked, Unavailable
from serving.jobs.job import Job, JobResult, StoredImage
from serving.jobs.wish import ImageWish

Noun = Literal["image_generation", "image_edit"]

FORMATS = {content_type: name for name, content_type in CONTENT_TYPES.items()}
# What only an engine can find wrong with what the caller sent, and in which field.
CALLERS_FAULT = {AdapterError.code: "loras", AdapterGone.code: "loras", InputImageError.code: "image"}
# Typed clients read `usage` in the last event; our models count no tokens.
NO_TOKENS = {
    "total_tokens": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}


async def answer(
    call: Call, wish: ImageWish, body: OpenAIImageBody, noun: Noun, response: Response
) -> ImagesResponse | EventStream | JSONResponse:
    """Submits the job and answers with its pictures, or, to those who prefer it, with the job."""
    settings = call.services.settings.api
    # A stream is an answer that one listens to: of respond-async, all that is left is that the job is kept.
    is_async = call.preference.is_async and not body.stream
    timeout_s = call.longest_wait_s if is_async else settings.sync_deadline_s
    job = await call.submit(wish)
    if body.stream:
        events = _events(call.services, job, body, noun)
        return EventStream(events, keep_alive_s=settings.keep_alive_s, on_hang_up=lambda: call.hang_up(job))
    if timeout_s > 0:
        job = await call.waiting(job, wait_for(call.services, job, timeout_s=timeout_s))
    elif not job.is_final:
        call.services.router.push(job)
    if is_async and not job.is_final:
        return await _answer_async(call.services, job)
    return await _answer(call.services, job, body, response)


async def _answer(services: Services, job: Job, body: OpenAIImageBody, response: Response) -> ImagesResponse:
    """The pictures of a job that has ended."""
    result = result_of(job)
    wants_bytes = body.response_format == "b64_json"
    data = await asyncio.gather(*(_image_data(services, image, wants_bytes=wants_bytes) for image in result.images))
    response.headers["Server-Timing"] = (
        f"engine;dur={result.engine_s * 1000:.2f}, queue;dur={result.waited_s * 1000:.2f}"
    )
    return ImagesResponse(
        created=int(job.finished_at or job.created_at),
        data=data,
        size=f"{job.pictures.width_px}x{job.pictures.height_px}",
        output_format=job.pictures.output_format,
        quality=body.quality or "auto",
        background="opaque",
        job_id=job.id,
        inference_time_s=result.engine_s,
    )


async def _answer_async(services: Services, job: Job) -> JSONResponse:
    """202 and the job: where to ask for it, and that the preference was heard."""
    headers = {**where_to_ask(job), "Preference-Applied": "respond-async"}
    body = await job_body(services, job)
    return JSONResponse(body.model_dump(mode="json"), status_code=202, headers=headers)


def result_of(job: Job) -> JobResult:
    """What the job gave, or, as an error for the one who waited, why there is nothing."""
    if isinstance(job.result, JobResult):
        return job.result
    if job.status == "cancelled":
        raise JobCancelled(f"The job was cancelled (job {job.id}).")
    if job.error is not None:
        message, code = f"{job.error.message} (job {job.id})", job.error.code
        if code == ModerationBlocked.code:
            raise ModerationBlocked(message)
        if code in CALLERS_FAULT:
            raise BadInput(message, param=CALLERS_FAULT[code], code=code)
        raise JobFailed(message, code=code)
    raise Unavailable(
        f"Not finished yet; the job goes on. Ask GET /v1/jobs/{job.id}.", retry_after_s=30, code="still_running"
    )


async def _events(services: Services, job: Job, body: OpenAIImageBody, noun: Noun) -> AsyncGenerator[bytes, None]:
    """Partial images as they come, and last every picture. A refusal on the way becomes an `error` event."""
    always = {
        "size": f"{job.pictures.width_px}x{job.pictures.height_px}",
        "quality": body.quality or "auto",
        "background": "opaque",
        "job_id": job.id,
    }
    async with aclosing(follow(services, job, timeout_s=services.settings.api.sync_deadline_s)) as told:
        async for news in told:
            match news:
                case Preview(partial_index=int(partial_index)):
                    yield _event(
                        f"{noun}.partial_image",
                        news.data,
                        news.content_type,
                        {**always, "partial_image_index": partial_index, "image_index": news.image_index},
                    )
                case Job():
                    for index, image in enumerate(result_of(news).images):
                        more = {"usage": NO_TOKENS, "seed": image.seed, "image_index": index, "is_nsfw": image.is_nsfw}
                        content = await _content(services, image)
                        yield _event(f"{noun}.completed", content, image.content_type, {**always, **more})


def _event(name: str, content: bytes, content_type: str, fields: dict[str, Any]) -> bytes:
    made = {
        "type": name,
        "b64_json": base64.b64encode(content).decode(),
        "created_at": int(time.time()),
        "output_format": FORMATS[content_type],
    }
    return event(name, made | fields)


async def _image_data(services: Services, image: StoredImage, *, wants_bytes: bool) -> ImageData:
    if not wants_bytes:
        url = services.blobs.presign_get(image.key, expiry_s=services.settings.s3.url_expiry_s)
        return ImageData(url=url, seed=image.seed, is_nsfw=image.is_nsfw)
    content = base64.b64encode(await _content(services, image)).decode()
    return ImageData(b64_json=content, seed=image.seed, is_nsfw=image.is_nsfw)


async def _content(services: Services, image: StoredImage) -> bytes:
    try:
        return await asyncio.to_thread(services.blobs.get, image.key)
    except BlobError as error:
        raise Unavailable(
            "The picture is stored but the object store did not answer.", code="storage_unavailable"
        ) from error
