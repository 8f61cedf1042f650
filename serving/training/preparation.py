"""The first half of a training: from its sources to a dataset that is whole, here and in the store."""

import asyncio
import time
from dataclasses import asdict
from pathlib import Path

from pipelines.request import StoredFile, TrainingRequest
from serving.backends.base import Order
from serving.tenancy.policies import ModerationPolicy
from serving.training.artefacts import Artefacts
from serving.training.gathering import Gathered, Gatherer
from serving.training.report import Report
from serving.training.workshop import Workshop
from training.dataset import Dataset, read_dataset
from training.orders import CAPTIONED_PREPARE_WORK, DATASET, PREPARE_WORK, STILLS, PrepareOrder
from training.recipe import Recipe


class Preparation:
    """That of one attempt at one order, in its folder."""

    def __init__(
        self, workshop: Workshop, order: Order, policy: ModerationPolicy, recipe: Recipe, folder: Path, report: Report
    ) -> None:
        assert isinstance(order.request, TrainingRequest), "routing sends nothing else here"
        self._workshop = workshop
        self._order = order
        self._request = order.request
        self._policy = policy
        self._recipe = recipe
        self._folder = folder
        self._report = report
        self._artefacts = Artefacts(workshop.blobs, order)

    async def dataset(self, base_sha256: str) -> tuple[Dataset, StoredFile]:
        """The dataset and its manifest in the store; where an earlier attempt was so far, that one's.

        Raises TrainingError where the request is at fault, Unavailable where a store or the Frames replicas are.
        """
        target = self._folder / DATASET
        if (manifest := await self._artefacts.manifest(self._artefacts.dataset_prefix)) is not None:
            return await self._artefacts.fetch_dataset(self._artefacts.dataset_prefix, target), manifest
        self._report.at("frames")
        gathered = Gathered(())
        if self._request.dataset is not None:
            await self._artefacts.fetch_dataset(self._request.dataset, target)
        else:
            gathered = await self._gather()
        await self._prepare(gathered, base_sha256)
        dataset = await asyncio.to_thread(read_dataset, target)
        manifest = await self._artefacts.keep_dataset(target, dataset, gathered.sheets)
        await self._artefacts.forget_stills()
        return dataset, manifest

    async def _gather(self) -> Gathered:
        workshop = self._workshop
        gatherer = Gatherer(workshop.frames, self._artefacts, workshop.workspace, self._order, self._policy)
        gathered = await gatherer.gather(
            self._request.sources,
            self._recipe.frames,
            self._folder / STILLS,
            lambda share: self._report.at("frames", share),
        )
        if gathered.duration_s > 0:
            workshop.speeds.note_frames(took_s=gathered.took_s, duration_s=gathered.duration_s)
        self._report.spend(gathered.device_s)
        return gathered

    async def _prepare(self, gathered: Gathered, base_sha256: str) -> None:
        request, began_at = self._request, time.perf_counter()
        order = PrepareOrder(
            folder=str(self._folder),
            job_id=self._order.job_id,
            recipe_json=request.recipe_json,
            trigger=request.trigger,
            caption=request.caption,
            seed=request.seed,
            base_model=request.base_model,
            base_sha256=base_sha256,
            stills=tuple(asdict(still) for still in gathered.stills),
            captions=request.captions,
            captioner=await self._workshop.bases.captioner() if request.caption == "model" else None,
            num_threads=self._workshop.apart.num_threads,
        )
        await self._workshop.apart.run(
            PREPARE_WORK if order.captioner is None else CAPTIONED_PREPARE_WORK,
            order.to_dict(),
            wall_s=self._workshop.settings.training.prepare_timeout_s,
            on_start=self._report.begin_work,
            on_news=self._report.hear,
        )
        if gathered.stills:
            took_s = time.perf_counter() - began_at
            self._workshop.speeds.note_prepared(took_s=took_s, num_pictures=len(gathered.stills))
