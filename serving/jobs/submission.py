"""The front half of a job: a wish, resolved and given room, is stored. Knows no HTTP."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from configs.settings import Settings
from models.blobs import BlobStore
from models.errors import BlobError
from models.spec import ModelSpec
from pipelines.request import CONTENT_TYPES, StoredFile
from serving.adapters.store import AdapterStore
from serving.errors import Forbidden, Unavailable
from serving.jobs.inputs import EditWish, InputPicture
from serving.jobs.job import Job, input_prefix, new_job, new_job_id
from serving.jobs.queue_room import QueueRoom
from serving.jobs.store import JobStore
from serving.jobs.wish import MAX_LORAS, ImageWish, resolve_image
from serving.telemetry import JOBS_ACCEPTED, get_logger
from serving.tenancy.auth import Caller

log = get_logger("submission")

EXTENSIONS = {content_type: name for name, content_type in CONTENT_TYPES.items()}


class Submission:
    """Turns wishes into stored jobs. After submit() returns, the job survives the death of every process."""

    def __init__(
        self,
        store: JobStore,
        blobs: BlobStore,
        adapters: AdapterStore,
        catalog: Mapping[str, ModelSpec],
        settings: Settings,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._adapters = adapters
        self._room = QueueRoom(store, settings.jobs)
        self._catalog = catalog
        self._settings = settings

    async def submit_image(self, caller: Caller, wish: ImageWish, *, request_id: str) -> Job:
        """Raises BadInput, NotFound (model), Forbidden (priority) or TooManyRequests; then nothing was stored."""
        request = resolve_image(
            wish,
            self._catalog,
            default_model=self._settings.default_image_model,
            max_prompt_chars=self._settings.api.max_prompt_chars,
            adapters=await self._adapters.find_all(caller.tenant, [lora.name for lora in wish.loras[:MAX_LORAS]]),
        )
        if wish.priority == "high" and not caller.is_admin:
            raise Forbidden("priority 'high' needs a key with role admin.", param="priority")
        await self._room.take(caller.tenant)
        job_id = new_job_id()
        if wish.edit is not None:
            image, mask = wish.edit.image, wish.edit.mask
            request = replace(request, image=_file("image", image, job_id), mask=_file("mask", mask, job_id))
        job = new_job(
            request,
            job_id=job_id,
            tenant=caller.tenant,
            kind="image",
            priority=wish.priority,
            metadata=dict(wish.metadata),
            user=wish.user,
            request_id=request_id,
        )
        if wish.edit is None:
            await self._store.insert(job)
        else:
            await self._insert_edit(job, wish.edit)
        JOBS_ACCEPTED.labels(job.kind, job.model_id).inc()
        log.info("job accepted", job_id=job.id, model=job.model_id, images=request.num_images)
        return job

    async def _insert_edit(self, job: Job, edit: EditWish) -> None:
        """The files first: whoever finds the job finds them too. No job, no files."""
        is_inserted = False
        try:
            for file, picture in ((job.request.image, edit.image), (job.request.mask, edit.mask)):
                if file is not None and picture is not None:
                    await asyncio.to_thread(self._blobs.put, file.key, picture.data, picture.content_type)
            await self._store.insert(job)
            is_inserted = True
        except BlobError as error:
            raise Unavailable("The object store did not answer.", code="storage_unavailable") from error
        finally:
            if not is_inserted:
                await self._remove_inputs(job)

    async def _remove_inputs(self, job: Job) -> None:
        try:
            await asyncio.to_thread(self._blobs.delete_prefix, input_prefix(job.id))
        except BlobError as error:
            log.warning("input files not removed", job_id=job.id, reason=str(error))


def _file(name: str, picture: InputPicture | None, job_id: str) -> StoredFile | None:
    """Where a picture that an edit starts from is kept."""
    if picture is None:
        return None
    return picture.stored_at(f"{input_prefix(job_id)}{name}.{EXTENSIONS[picture.content_type]}")
