"""What a training has made, on its way into the store: its pictures looked at and kept, then its file published."""

import asyncio
import hashlib
from collections.abc import Sequence
from functools import partial

from models.blobs import BlobStore
from pipelines.request import CONTENT_TYPES, StoredSample, TrainedAdapter, TrainingResult, TrainingSample
from serving.adapters.publishing import AdapterPublisher
from serving.errors import ModerationBlocked
from serving.insisting import insist
from serving.jobs.job import Job
from serving.moderation.moderation import Moderation, Screened
from serving.telemetry import get_logger
from training.orders import LOSS_PLOT

log = get_logger("keeper")

LOOK_AGAIN_S = 0.5
PNG = CONTENT_TYPES["png"]


class TrainingKeeper:
    """Keeps beside the dataset what speaks for a version, and publishes it last. All of it may be repeated."""

    def __init__(
        self, blobs: BlobStore, moderation: Moderation, publisher: AdapterPublisher, *, insist_s: float
    ) -> None:
        self._blobs = blobs
        self._moderation = moderation
        self._publisher = publisher
        self._insist_s = insist_s

    async def keep(self, job: Job, made: TrainedAdapter, waited_s: float) -> TrainingResult:
        """Raises PublicationRefused, Unavailable (no moderator, no engine), BlobError."""
        screened = [(sample, await self._screen(job, sample)) for sample in made.samples]
        shown = [(sample, picture) for sample, picture in screened if picture is not None]
        samples = await asyncio.to_thread(self._put_samples, job, shown)
        loss_plot = None
        if made.loss_plot is not None:
            loss_plot = f"{job.output_prefix}{LOSS_PLOT}"
            await asyncio.to_thread(self._blobs.put, loss_plot, made.loss_plot, PNG)
        adapter = await self._publisher.publish(job, made)
        return TrainingResult(
            adapter=adapter.reference,
            key=adapter.file.key,
            sha256=adapter.file.sha256,
            num_bytes=adapter.manifest.num_bytes,
            dataset=made.manifest.key,
            trigger=job.training.trigger,
            frames_used=made.frames_used,
            frames_rejected=made.frames_rejected,
            loss=made.loss,
            validation_loss=made.validation_loss,
            quality=made.quality,
            samples=tuple(samples),
            loss_plot=loss_plot,
            engine_s=made.engine_s,
            waited_s=waited_s,
            device_s=made.device_s,
        )

    async def _screen(self, job: Job, sample: TrainingSample) -> Screened | None:
        """The picture as its tenant may see it; None where it may not: the version is good without it."""
        is_lenient = job.moderation == "low"
        try:
            [screened] = await insist(
                partial(self._moderation.screen, job.tenant, [sample.image.data], is_lenient=is_lenient),
                for_s=self._insist_s,
                pause_s=LOOK_AGAIN_S,
                what="look at a sample",
            )
        except ModerationBlocked:
            return None
        return screened

    # In a thread: the object store blocks.

    def _put_samples(self, job: Job, shown: Sequence[tuple[TrainingSample, Screened]]) -> list[StoredSample]:
        """Those of an earlier attempt that are not shown any more go: nobody can tell what was wrong with them."""
        prefix = f"{job.output_prefix}samples/"
        samples = [self._put(f"{prefix}{number:04}", *one) for number, one in enumerate(shown)]
        kept = {sample.key for sample in samples}
        self._blobs.delete_many([blob.key for blob in self._blobs.list(prefix) if blob.key not in kept])
        return samples

    def _put(self, stem: str, sample: TrainingSample, screened: Screened) -> StoredSample:
        image = sample.image
        extension = next(name for name, kind in CONTENT_TYPES.items() if kind == image.content_type)
        key = f"{stem}.{extension}"
        self._blobs.put(key, screened.data, image.content_type)
        return StoredSample(
            key=key,
            content_type=image.content_type,
            num_bytes=len(screened.data),
            sha256=hashlib.sha256(screened.data).hexdigest(),
            width_px=image.width_px,
            height_px=image.height_px,
            seed=image.seed,
            prompt=sample.prompt,
            step=sample.step,
            is_nsfw=screened.is_nsfw,
        )
