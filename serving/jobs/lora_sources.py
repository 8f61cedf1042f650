"""What a training learns from: uploads, or the dataset of an earlier job. Looks things up, stores nothing."""

import asyncio
from typing import Protocol

from models.blobs import BlobStore
from pipelines.request import TrainingRequest, TrainingSource
from serving.adapters.store import in_store
from serving.errors import BadInput, Conflict, NotFound
from serving.jobs.job import Job
from serving.jobs.lora_wish import EarlierDataset
from serving.uploads.uploads import Uploads
from training.dataset import MANIFEST, DatasetError, read_sources


class Jobs(Protocol):
    """Where jobs can be looked up; JobStore is one."""

    async def get(self, tenant: str, job_id: str) -> Job:
        """Raises NotFound."""
        ...


class TrainingSources:
    """One for each process."""

    def __init__(self, uploads: Uploads, jobs: Jobs, blobs: BlobStore) -> None:
        self._uploads = uploads
        self._jobs = jobs
        self._blobs = blobs

    async def uploads(self, tenant: str, upload_ids: tuple[str, ...]) -> list[TrainingSource]:
        """Pictures and videos, in the order they were named. NotFound, or Conflict for one that is not ready."""
        return await asyncio.gather(*(self._source(tenant, upload_id) for upload_id in upload_ids))

    async def earlier(self, tenant: str, job_id: str) -> EarlierDataset:
        """NotFound, BadInput when the job is none that trains, Conflict while or when it has no dataset."""
        try:
            job = await self._jobs.get(tenant, job_id)
        except NotFound as error:
            raise NotFound(error.message, param="from_job", code=error.code) from error
        if not isinstance(job.request, TrainingRequest):
            raise BadInput(f"{job.id} is a job of kind {job.kind}; it has no dataset.", param="from_job")
        key = job.output_prefix + MANIFEST
        if not await in_store(self._blobs.exists, key):  # it is written last
            raise Conflict(f"{job.id} has no dataset, or none any more.", param="from_job", code="no_dataset")
        try:
            sources = read_sources(await in_store(self._blobs.get, key))
        except DatasetError as error:
            raise Conflict(str(error), param="from_job", code="no_dataset") from error
        return EarlierDataset(
            prefix=job.output_prefix,
            files=frozenset(file.rpartition("/")[2] for source in sources for file in source.files),
            base_model=job.request.base_model,
            trigger=job.request.trigger,
        )

    async def _source(self, tenant: str, upload_id: str) -> TrainingSource:
        ready = await self._uploads.require(tenant, upload_id, param="upload_ids")
        duration_s = float(ready.media["duration_s"]) if ready.purpose == "video" else 0.0
        return TrainingSource(ready.id, ready.purpose, ready.file, duration_s)
