"""The front half of a job: a wish that was admitted is stored, once. Knows no HTTP."""

import asyncio
from dataclasses import dataclass, replace

from configs.settings import JobSettings
from models.blobs import BlobStore
from models.errors import BlobError
from pipelines.request import CONTENT_TYPES, FramesRequest, GenerationRequest, StoredFile, TrainingRequest
from serving.errors import Conflict, NotFound, Unavailable
from serving.jobs.admission import Admission, Admitted, AnyWish
from serving.jobs.idempotency import IdempotencyKeys, fingerprint_of
from serving.jobs.inputs import EditWish, InputPicture
from serving.jobs.job import Job, input_prefix, new_job, new_job_id
from serving.jobs.store import JobStore
from serving.jobs.wish import Wish
from serving.telemetry import JOBS_ACCEPTED, get_logger
from serving.tenancy.auth import Caller
from serving.uploads.uploads import Uploads

log = get_logger("submission")

EXTENSIONS = {content_type: name for name, content_type in CONTENT_TYPES.items()}


@dataclass(frozen=True, slots=True)
class RequestKey:
    """An idempotency key, and the route that it came to."""

    text: str
    route: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """A stored job, and whether it was an earlier request with the same idempotency key that made it."""

    job: Job
    is_replay: bool = False


class Submission:
    """Turns wishes into stored jobs. After submit() returns, the job survives the death of every process."""

    def __init__(
        self,
        store: JobStore,
        blobs: BlobStore,
        uploads: Uploads,
        keys: IdempotencyKeys,
        admission: Admission,
        settings: JobSettings,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._uploads = uploads
        self._keys = keys
        self._admission = admission
        self._settings = settings

    async def submit(
        self, caller: Caller, wish: AnyWish, *, request_id: str, key: RequestKey | None = None
    ) -> Accepted:
        """Raises what Admission raises: then nothing was stored.

        With a key that was used before, the job of that time, whatever became of it; KeyReused for another wish.
        """
        fingerprint = "" if key is None else fingerprint_of(key.route, wish)
        if key is not None and (job := await self._made_before(caller.tenant, key.text, fingerprint)) is not None:
            return Accepted(job, is_replay=True)
        admitted = await self._admission.admit(caller, wish)
        job_id = new_job_id()
        if key is not None:
            held = await self._keys.reserve(caller.tenant, key.text, fingerprint=fingerprint, new_id=job_id)
            job_id = held.id
        job = self._job(caller, wish, admitted, job_id=job_id, request_id=request_id)
        try:
            await self._secure_inputs(job, admitted.edit)
            await self._store.insert(job)
        except Conflict:
            # Only a reserved id can be taken: by a request with the same key, at the same moment.
            return Accepted(await self._store.get(caller.tenant, job.id), is_replay=True)
        except Unavailable:
            if key is None:  # else another request with this key may have stored the same files and the job
                await self._remove_inputs(job)
            raise
        JOBS_ACCEPTED.labels(job.kind, job.model_id).inc()
        log.info("job accepted", job_id=job.id, kind=job.kind, model=job.model_id, places=job.request.num_places)
        return Accepted(job)

    async def _made_before(self, tenant: str, key: str, fingerprint: str) -> Job | None:
        """The job that the key stands for; None while there is none: the key is free, or its request broke off."""
        held = await self._keys.find(tenant, key, fingerprint=fingerprint)
        if held is None:
            return None
        try:
            return await self._store.get(tenant, held.id)
        except NotFound:
            return None

    def _job(self, caller: Caller, wish: Wish, admitted: Admitted, *, job_id: str, request_id: str) -> Job:
        request = admitted.request
        if admitted.edit is not None and isinstance(request, GenerationRequest):
            image, mask = admitted.edit.image, admitted.edit.mask
            request = replace(request, image=_file("image", image, job_id), mask=_file("mask", mask, job_id))
        return new_job(
            request,
            job_id=job_id,
            tenant=caller.tenant,
            kind=admitted.kind,
            priority=wish.priority,
            metadata=dict(wish.metadata),
            user=wish.user,
            request_id=request_id,
            expires_in_s=self._settings.max_age_s if wish.expires_in_s is None else wish.expires_in_s,
            webhook_url=wish.webhook_url,
            moderation=wish.moderation,
        )

    async def _secure_inputs(self, job: Job, edit: EditWish | None) -> None:
        """Before the job: whoever finds the job finds them too."""
        match job.request:
            case FramesRequest(upload_id=upload_id):
                await self._uploads.note_use(job.tenant, upload_id, kind="frames", id=job.id)
            case TrainingRequest(sources=sources):
                for source in sources:
                    await self._uploads.note_use(job.tenant, source.upload_id, kind="lora", id=job.id)
        if edit is None:
            return
        try:
            for file, picture in ((job.pictures.image, edit.image), (job.pictures.mask, edit.mask)):
                if file is not None and picture is not None:
                    await asyncio.to_thread(self._blobs.put, file.key, picture.data, picture.content_type)
        except BlobError as error:
            raise Unavailable("The object store did not answer.", code="storage_unavailable") from error

    async def _remove_inputs(self, job: Job) -> None:
        if not job.request.inputs:
            return
        try:
            await asyncio.to_thread(self._blobs.delete_prefix, input_prefix(job.id))
        except BlobError as error:
            log.warning("input files not removed", job_id=job.id, reason=str(error))


def _file(name: str, picture: InputPicture | None, job_id: str) -> StoredFile | None:
    """Where a picture that an edit starts from is kept."""
    if picture is None:
        return None
    return picture.stored_at(f"{input_prefix(job_id)}{name}.{EXTENSIONS[picture.content_type]}")
