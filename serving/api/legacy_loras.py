"""/api/lora: trainings for the owner's first clients. The same jobs as /v1/loras/train makes, under other names."""

import hashlib
import json
import re
import unicodedata
from functools import partial

from fastapi import APIRouter, Depends, Query

from serving.api.calls import Call, CurrentCall
from serving.api.deps import CurrentCaller, Services, ServicesDep, open_for_work
from serving.api.fetching import fetch_video, give_back
from serving.api.schemas import ErrorBody
from serving.api.schemas.legacy_loras import (
    MAX_NAME_CHARS,
    NAME,
    LegacyLora,
    LegacyLoraList,
    LegacyStanding,
    LegacyStarted,
    LegacyTrainBody,
    legacy_lora,
    standing,
    started,
)
from serving.errors import AppError, NotFound, Unavailable, Unprocessable
from serving.jobs.job import Job
from serving.jobs.lora_wish import TrainingWish
from serving.jobs.wish import MAX_USER_CHARS, check_text

router = APIRouter(prefix="/api/lora", tags=["older clients"])

PAGE = 100
MAX_LISTED = 1_000
MAX_SLUG_CHARS = 48
THEIR_WORDS = {"trigger": "triggerWord", "upload_ids": "uploadId", "user": "userId"}  # of our fields, in an error


@router.post(
    "/train",
    dependencies=[Depends(open_for_work)],
    responses={
        404: {"model": ErrorBody},
        409: {"model": ErrorBody},
        422: {"model": ErrorBody},
        429: {"model": ErrorBody},
    },
)
async def train(body: LegacyTrainBody, call: CurrentCall) -> LegacyStarted:
    """Fetches the video, where it is named by URL, and begins to train."""
    check_text("userId", body.user_id, max_chars=MAX_USER_CHARS)
    check_text("name", body.name, max_chars=MAX_NAME_CHARS)
    if (body.video_url is None) == (body.upload_id is None):
        raise Unprocessable("Give one of videoUrl and uploadId.", param="videoUrl")
    job = await _submit(call, body)
    if not job.is_final:
        call.services.router.push(job)
    return started(job)


@router.get("/status/{job_id}")
async def get_status(services: ServicesDep, caller: CurrentCaller, job_id: str) -> LegacyStanding:
    """How far it is: pending, processing, completed, failed or cancelled."""
    return standing(await _training(services, caller.tenant, job_id))


@router.get("/list")
async def list_trainings(
    services: ServicesDep,
    caller: CurrentCaller,
    user_id: str | None = Query(None, alias="userId", max_length=256, description="Only this user's; else all."),
) -> LegacyLoraList:
    """Newest first."""
    jobs = await _trainings(services, caller.tenant, user_id)
    return LegacyLoraList(loras=[_shown(services, job) for job in jobs])


@router.get("/{job_id}")
async def get_training(services: ServicesDep, caller: CurrentCaller, job_id: str) -> LegacyLora:
    """One training in full."""
    return _shown(services, await _training(services, caller.tenant, job_id))


def adapter_name(name: str, user: str) -> str:
    """A valid name of an adapter for this user's free text: always the same one, and no two users' are the same.

    Adapters are the tenant's and these names are each user's own, so a hash of both is part of it.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:MAX_SLUG_CHARS].strip("-")
    own = hashlib.sha256(json.dumps([user, name]).encode()).hexdigest()[:8]
    return f"{words or 'lora'}-{own}"


async def _submit(call: Call, body: LegacyTrainBody) -> Job:
    fetched = None
    if body.video_url is not None:
        fetched = await fetch_video(call, body.video_url, user=body.user_id, param="videoUrl")
    try:
        return await call.submit(_wish(body, upload_id=body.upload_id if fetched is None else fetched.upload_id))
    except AppError as error:
        # Without the stores nobody knows whether there is a job now that needs it.
        if fetched is not None and fetched.is_new and not isinstance(error, Unavailable):
            await give_back(call, fetched)
        error.param = THEIR_WORDS.get(error.param or "", error.param)
        raise


def _wish(body: LegacyTrainBody, *, upload_id: str | None) -> TrainingWish:
    return TrainingWish(
        name=adapter_name(body.name, body.user_id),
        upload_ids=() if upload_id is None else (upload_id,),
        trigger=body.trigger_word or body.name,
        steps=body.steps,
        user=body.user_id,
        metadata={NAME: body.name},
    )


async def _training(services: Services, tenant: str, job_id: str) -> Job:
    job = await services.store.get(tenant, job_id)
    if not job.is_training:
        raise NotFound(f"No training {job_id[:100]!r}.", param="id", code="job_not_found")
    return job


async def _trainings(services: Services, tenant: str, user: str | None) -> list[Job]:
    found: list[Job] = []
    after: str | None = None
    while len(found) < MAX_LISTED:
        page = await services.store.page(tenant, status=None, kind="lora", limit=PAGE, after=after)
        found += [job for job in page if user in {None, job.user}]
        if len(page) < PAGE:
            break
        after = page[-1].id
    return found[:MAX_LISTED]


def _shown(services: Services, job: Job) -> LegacyLora:
    return legacy_lora(job, partial(services.blobs.presign_get, expiry_s=services.settings.s3.url_expiry_s))
