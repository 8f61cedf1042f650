"""GET /v1/jobs/{id}/events: a job as it happens, for pages that show how a picture comes to be."""

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Response

from pipelines.request import Preview, Progress
from serving.api.deps import CurrentCaller, Services, ServicesDep
from serving.api.jobs import job_body
from serving.api.sse import EventStream, event
from serving.api.waiting import follow, standing_of
from serving.jobs.job import Job

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

EVENTS = """Server-sent events: `progress` {progress, step, steps}, of a training with stage, loss and eta_s beside,
`preview` {b64_json, content_type, image_index, step}, then one of `succeeded`, `failed` and `cancelled` with the job. A
stream that ends without one of these three ran into the server's time limit (`api.sync_deadline_s`): ask again."""


@router.get(
    "/{job_id}/events",
    response_class=Response,
    responses={200: {"description": EVENTS, "content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def follow_job(services: ServicesDep, caller: CurrentCaller, job_id: str) -> EventStream:
    """What happens to a job, from where it stands now to its end."""
    job = await services.store.get(caller.tenant, job_id)
    return EventStream(_events(services, job), keep_alive_s=services.settings.api.keep_alive_s)


async def _events(services: Services, job: Job) -> AsyncGenerator[bytes, None]:
    if not job.is_final:
        yield _progress(standing_of(job), is_training=job.is_training)
    async with aclosing(follow(services, job, timeout_s=services.settings.api.sync_deadline_s)) as told:
        async for news in told:
            match news:
                case Progress():
                    yield _progress(news, is_training=job.is_training)
                case Preview():
                    yield _preview(news)
                case Job() if news.is_final:
                    yield event(news.status, (await job_body(services, news)).model_dump(mode="json"))


def _progress(news: Progress, *, is_training: bool) -> bytes:
    told: dict[str, object] = {"progress": news.percent, "step": news.step, "steps": news.steps}
    if is_training:
        told |= {"stage": news.stage, "loss": news.loss, "eta_s": news.eta_s}
    return event("progress", told)


def _preview(preview: Preview) -> bytes:
    return event(
        "preview",
        {
            "b64_json": base64.b64encode(preview.data).decode(),
            "content_type": preview.content_type,
            "image_index": preview.image_index,
            "step": preview.step,
        },
    )
