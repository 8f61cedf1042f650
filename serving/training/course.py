"""One training on its way: base model → dataset → child process, or a provider → staged file.

Each part that an earlier attempt at the same job has brought to its end is found again.
"""

import asyncio
import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.request import GeneratedImage, Progress, TrainedAdapter, TrainingQuality, TrainingRequest, TrainingSample
from serving.adapters.store import in_store
from serving.backends.base import Order
from serving.backends.training import TrainingError
from serving.telemetry import get_logger
from serving.tenancy.policies import ModerationPolicy
from serving.training.artefacts import Artefacts, content_type_of
from serving.training.estimating import Plan, check_memory
from serving.training.fal import FalTrainer
from serving.training.mirror import mirrored
from serving.training.preparation import Preparation
from serving.training.report import Report
from serving.training.workshop import Workshop
from training.orders import (
    ADAPTER,
    CHECKPOINT,
    DATASET,
    LOSS_DATA,
    OUT,
    TRAIN_WORK,
    BaseModel,
    Measured,
    Trained,
    TrainOrder,
)
from training.recipe import Recipe

log = get_logger("training")


class Course:
    """One attempt at one order, in a folder of its own."""

    def __init__(
        self,
        workshop: Workshop,
        order: Order,
        policy: ModerationPolicy,
        *,
        recipe: Recipe,
        folder: Path,
        report: Report,
        waited_s: float,
    ) -> None:
        assert isinstance(order.request, TrainingRequest), "routing sends nothing else here"
        self._workshop = workshop
        self._order = order
        self._request = order.request
        self._recipe = recipe
        self._folder = folder
        self._report = report
        self._waited_s = waited_s
        self._began_at = time.perf_counter()
        self._artefacts = Artefacts(workshop.blobs, order)
        self._preparation = Preparation(workshop, order, policy, recipe, folder, report)

    async def run(self) -> TrainedAdapter:
        """Raises TrainingError where the request is at fault, Unavailable where a store or the Frames replicas are."""
        model_id, fal = self._request.base_model, self._workshop.fal
        if fal is not None and model_id in fal.base_models and not self._workshop.bases.can_train(model_id):
            return await self._run_at_fal(fal)
        async with self._workshop.bases.held(model_id) as base:
            if await self._artefacts.fetch_checkpoint(self._folder):
                log.info("training goes on", job_id=self._order.job_id)
            else:
                await self._look_ahead(base)
            dataset, manifest = await self._preparation.dataset(base.sha256)
            before_s = self._report.spent_s
            trained = await self._train(base)
            self._note_speeds(base, len(dataset.pictures), trained)
            self._report.at("publish", 0.9)
            out = self._folder / OUT
            await self._artefacts.put_file(f"{self._artefacts.dataset_prefix}{LOSS_DATA}", out / trained.loss_data)
            return TrainedAdapter(
                file=await self._artefacts.put_file(self._artefacts.adapter_key, out / trained.adapter),
                num_bytes=trained.num_bytes,
                weights_sha256=base.sha256,
                dataset=self._artefacts.dataset_prefix,
                manifest=manifest,
                frames_used=len(dataset.pictures),
                frames_rejected=tuple(dataset.num_rejected.items()),
                loss=trained.loss,
                validation_loss=trained.validation_loss,
                quality=TrainingQuality(**trained.quality),
                samples=await asyncio.to_thread(_read_samples, out, trained.samples),
                loss_plot=await asyncio.to_thread((out / trained.loss_plot).read_bytes),
                engine_s=time.perf_counter() - self._began_at,
                waited_s=self._waited_s,
                device_s=before_s + trained.device_s,
            )

    async def _look_ahead(self, base: BaseModel) -> None:
        """Refuses what would end for want of memory, and others with it, before anything is done for it."""
        estimates = self._workshop.estimates
        try:
            measured = await estimates.figures(self._recipe, base)
        except TrainingError as error:
            if error.code != "takes_too_long":
                raise
            log.warning("not measured", job_id=self._order.job_id, reason=str(error))
            return
        estimate = estimates.of(Plan.of(self._request, self._recipe, base), measured)
        check_memory(estimate)
        self._report.expect(estimate.time_s, after_s=measured.end_s)
        log.info("training begins", job_id=self._order.job_id, estimate=asdict(estimate))

    async def _train(self, base: BaseModel) -> Trained:
        request, settings = self._request, self._workshop.settings
        order = TrainOrder(
            folder=str(self._folder),
            job_id=self._order.job_id,
            name=request.name,
            created_at=int(self._order.created_at),
            recipe_json=request.recipe_json,
            trigger=request.trigger,
            steps=request.steps,
            seed=request.seed,
            base=base,
            checkpoint_s=settings.training.checkpoint_s,
            num_threads=self._workshop.apart.num_threads,
        )
        async with mirrored(self._artefacts, self._folder / CHECKPOINT) as has_checkpoint:

            def hear(news: dict[str, Any]) -> None:
                if "checkpoint" in news:
                    has_checkpoint()
                self._report.hear(news)

            found = await self._workshop.apart.run(
                TRAIN_WORK,
                order.to_dict(),
                wall_s=settings.jobs.lora_run_deadline_s,
                on_start=self._report.begin_work,
                on_news=hear,
            )
        return Trained.from_dict(found)

    def _note_speeds(self, base: BaseModel, num_pictures: int, trained: Trained) -> None:
        """What it really took, where all of it was heard."""
        cache, train = self._report.heard_at.get("cache"), self._report.heard_at.get("train")
        if cache is None or train is None or trained.s_per_step <= 0:
            return
        measured = Measured(
            start_s=cache[0],
            s_per_picture=(train[0] - cache[0]) / num_pictures,
            s_per_step=trained.s_per_step,
            end_s=self._report.since_began_s - train[1],
            peak_bytes=trained.peak_bytes,
        )
        self._workshop.speeds.note(self._workshop.estimates.key(self._recipe, base), measured)

    async def _run_at_fal(self, fal: FalTrainer) -> TrainedAdapter:
        """For a model that we have not: nobody here can prove what comes back, so it is published without."""
        dataset, manifest = await self._preparation.dataset(base_sha256="")
        note = await self._artefacts.get(self._artefacts.fal_key)

        async def keep(mark: dict[str, Any]) -> None:
            await self._artefacts.put(self._artefacts.fal_key, json.dumps(mark).encode())

        async def presign(archive: Path) -> str:
            await self._artefacts.put_file(self._artefacts.archive_key, archive)
            expiry_s = self._workshop.settings.s3.url_expiry_s
            return await in_store(self._workshop.blobs.presign_get, self._artefacts.archive_key, expiry_s)

        def tell(progress: Progress) -> None:
            self._report.hear({"stage": "train", "step": progress.step, "steps": progress.steps})

        target = self._folder / ADAPTER
        outcome = await fal.train(
            self._request,
            self._folder / DATASET,
            target,
            mark={} if note is None else json.loads(note),
            keep=keep,
            presign=presign,
            tell=tell,
        )
        return TrainedAdapter(
            file=await self._artefacts.put_file(self._artefacts.adapter_key, target),
            num_bytes=outcome.num_bytes,
            weights_sha256="",
            dataset=self._artefacts.dataset_prefix,
            manifest=manifest,
            frames_used=len(dataset.pictures),
            frames_rejected=tuple(dataset.num_rejected.items()),
            loss=(),
            validation_loss=(),
            quality=None,
            samples=(),
            loss_plot=None,
            engine_s=time.perf_counter() - self._began_at,
            waited_s=self._waited_s,
            device_s=self._report.spent_s,
        )


def _read_samples(out: Path, samples: Iterable[dict[str, Any]]) -> tuple[TrainingSample, ...]:
    return tuple(_read_sample(out, **fields) for fields in samples)


def _read_sample(
    out: Path, *, file: str, prompt: str, seed: int, step: int, width_px: int, height_px: int, sha256: str
) -> TrainingSample:
    data = (out / file).read_bytes()
    return TrainingSample(GeneratedImage(data, content_type_of(file), width_px, height_px, seed, sha256), prompt, step)
