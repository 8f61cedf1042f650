"""What was made, on its way into the store: looked at, then kept under the keys of its attempt, or removed again."""

import asyncio
import hashlib
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from models.blobs import BlobStore
from models.errors import BlobError
from pipelines.request import (
    CONTENT_TYPES,
    FramesResult,
    GeneratedImage,
    GenerationResult,
    Preview,
    TrainedAdapter,
)
from serving.backends.base import Made
from serving.errors import ModerationBlocked, Unavailable
from serving.insisting import insist
from serving.jobs.job import AnyResult, Job, JobResult, StoredImage
from serving.jobs.lora_keeping import TrainingKeeper
from serving.jobs.retention import stored_by
from serving.moderation.moderation import Moderation, Screened
from serving.telemetry import KEEP_SECONDS, get_logger

log = get_logger("keeper")

T = TypeVar("T")

LOOK_AGAIN_S = 0.5


class Keeper:
    """Keeps what a job has made. What the tenant's policy blocks is never stored."""

    def __init__(self, blobs: BlobStore, moderation: Moderation, trainings: TrainingKeeper, *, insist_s: float) -> None:
        """`insist_s`: how long it goes on asking for a look at what was made, since that is worth waiting for."""
        self._blobs = blobs
        self._moderation = moderation
        self._trainings = trainings
        self._insist_s = insist_s

    async def keep(self, job: Job, made: Made, waited_s: float) -> AnyResult:
        """The result as the job points at it. Raises ModerationBlocked, Unavailable (no moderator), BlobError.

        A training raises GenerationError too, for what cannot be published.
        """
        waited_s += made.waited_s
        if isinstance(made, TrainedAdapter):
            return await self._trainings.keep(job, made, waited_s)
        if isinstance(made, FramesResult):
            return replace(made, waited_s=waited_s)  # its stills were looked at and stored where they were taken
        screened = await self._screen(job, made)
        with KEEP_SECONDS.time():
            puts = (self._put(job, i, *pair) for i, pair in enumerate(zip(made.images, screened, strict=True)))
            images = await _all_ended(puts)
        return JobResult(images=tuple(images), engine_s=made.engine_s, waited_s=waited_s)

    async def shown(self, job: Job, preview: Preview) -> Preview | None:
        """The preview as its tenant may see it; None where it may not, or where nobody could look."""
        policy = await self._moderation.policy_of(job.tenant)
        if policy.action in {"off", "flag"}:
            return preview
        try:
            [screened] = await self._moderation.screen(
                job.tenant, [preview.data], is_lenient=job.moderation == "low", what="a preview"
            )
        except (ModerationBlocked, Unavailable):
            return None
        return replace(preview, data=screened.data)

    async def discard(self, job: Job) -> None:
        """Removes what this attempt has uploaded. What a training has is what the next attempt goes on from."""
        if job.is_training:
            return
        try:
            await asyncio.to_thread(self._remove_stored_by, job)
        except BlobError as error:
            log.warning("half-made results not removed", reason=str(error))

    async def _screen(self, job: Job, made: GenerationResult) -> list[Screened]:
        pictures = [image.data for image in made.images]
        return await insist(
            lambda: self._moderation.screen(job.tenant, pictures, is_lenient=job.moderation == "low"),
            for_s=self._insist_s,
            pause_s=LOOK_AGAIN_S,
            what="look at what was made",
        )

    def _remove_stored_by(self, job: Job) -> None:
        keys = [blob.key for blob in self._blobs.list(job.output_prefix)]
        self._blobs.delete_many(stored_by(job, keys))

    async def _put(self, job: Job, index: int, image: GeneratedImage, screened: Screened) -> StoredImage:
        extension = next(name for name, kind in CONTENT_TYPES.items() if kind == image.content_type)
        key = f"{job.attempt_prefix}{index}.{extension}"
        await asyncio.to_thread(partial(self._blobs.put, key, screened.data, content_type=image.content_type))
        return StoredImage(
            key=key,
            content_type=image.content_type,
            num_bytes=len(screened.data),
            sha256=image.sha256 if screened.data is image.data else hashlib.sha256(screened.data).hexdigest(),
            width_px=image.width_px,
            height_px=image.height_px,
            seed=image.seed,
            is_nsfw=screened.is_nsfw,
        )


async def _all_ended(works: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """What all of them gave; waits for the last one even when cancelled, or when another failed.

    Nobody can stop a thread, and what it leaves behind must be there to be removed.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        await asyncio.wait(tasks)
        raise
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    return [_given(outcome) for outcome in outcomes]


def _given(outcome: T | BaseException) -> T:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome
