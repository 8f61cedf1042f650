"""/health, /health/live, /health/ready and /metrics: for load balancers, operators and Prometheus. No key needed."""

import asyncio
from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from models.errors import BlobError
from serving.api.deps import Services, ServicesDep
from serving.api.schemas import Health, Readiness
from serving.errors import Unavailable
from serving.telemetry import render_metrics

router = APIRouter(tags=["health"])

CHECK_TIMEOUT_S = 3.0


@router.get("/health")
@router.get("/health/live")
async def live() -> Health:
    """This process answers."""
    return Health()


@router.get("/health/ready", responses={503: {"model": Readiness}})
async def ready(services: ServicesDep, response: Response) -> Readiness:
    """Whether a picture could be made and kept now; otherwise 503 and what is missing."""
    database, storage, moderator, models, standing = await asyncio.gather(
        _check_database(services),
        _check_storage(services),
        _check_moderator(services),
        services.router.ready_models(timeout_s=CHECK_TIMEOUT_S),
        services.board.glance(),
    )
    missing = [problem for problem in (database, storage, moderator) if problem is not None]
    served = {model_id: models.get(model_id, False) for model_id in services.catalog}
    missing += [f"model {model_id} is loading" for model_id, is_ready in served.items() if not is_ready]
    status: Literal["ready", "starting", "draining"] = "starting" if missing else "ready"
    if standing.is_draining:
        status, missing = "draining", ["the server is being stopped", *missing]
    if missing:
        response.status_code = 503
        response.headers["Retry-After"] = "2"
    return Readiness(status=status, missing=missing, models=served)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics() -> Response:
    """Prometheus text: all darkroom_* metrics of this node."""
    return Response(await asyncio.to_thread(render_metrics), media_type=CONTENT_TYPE_LATEST)


async def _check_database(services: Services) -> str | None:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await services.mongo.ping()
    except (Unavailable, TimeoutError):
        return "the job database does not answer"
    return None


async def _check_storage(services: Services) -> str | None:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await asyncio.to_thread(services.blobs.check)
    except (BlobError, TimeoutError):
        return "the object store does not answer"
    return None


async def _check_moderator(services: Services) -> str | None:
    """Without it nothing that is made is kept, but where nobody is to look."""
    if services.settings.moderation.action == "off" or await services.moderator.is_ready(timeout_s=CHECK_TIMEOUT_S):
        return None
    return "the moderator does not answer"
