"""Uploads: announce, send, complete, read, use, delete. What the routes call, and whoever makes something of a file."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from configs.settings import Settings
from models.blobs import BlobStore
from pipelines.request import StoredFile
from serving.adapters.store import in_store
from serving.errors import Conflict, NotFound, Unprocessable
from serving.moderation.moderation import Moderation
from serving.mongo import Mongo
from serving.telemetry import get_logger
from serving.tenancy.policies import TenantPolicies
from serving.uploads.checking import UploadChecker
from serving.uploads.content import Purpose
from serving.uploads.ending import UploadEnding
from serving.uploads.inspecting import FramesLink
from serving.uploads.lineage import Jobs, Lineage, Use, UseKind
from serving.uploads.objects import UploadObjects
from serving.uploads.offers import OfferDesk
from serving.uploads.receiving import Receiving
from serving.uploads.store import UploadStore, is_claimable
from serving.uploads.upload import Content, Offer, Upload, new_upload
from serving.uploads.uses import UploadUses

log = get_logger("uploads")

POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class ReadyUpload:
    """A file that something can be made of."""

    id: str
    purpose: Purpose
    content: Content

    @property
    def file(self) -> StoredFile:
        return self.content.file

    @property
    def media(self) -> Mapping[str, Any]:
        """As the API tells it: kind, width, height, and for videos duration_s."""
        return self.content.media


class Uploads:
    """One for each process. Looks that it began go on when the caller hangs up."""

    def __init__(
        self,
        mongo: Mongo,
        blobs: BlobStore,
        jobs: Jobs,
        frames: FramesLink,
        moderation: Moderation,
        policies: TenantPolicies,
        settings: Settings,
    ) -> None:
        self.store = UploadStore(mongo)
        self.receiving = Receiving(self.store, blobs, settings)
        self._blobs = blobs
        self._keep_s = settings.uploads.keep_pending_s
        self._objects = UploadObjects(mongo, blobs, self.store)
        self.desk = OfferDesk(self.store, self._objects.accounts, policies, settings.uploads)
        lineage = Lineage(mongo, jobs)
        self._uses = UploadUses(self.store, lineage)
        self._ending = UploadEnding(self.store, self._objects, self.receiving, lineage)
        self._checker = UploadChecker(
            self.store,
            self._objects,
            self.receiving,
            self._ending,
            blobs,
            frames,
            moderation,
            policies,
            settings.uploads,
        )
        self._looks: set[asyncio.Task[Upload]] = set()

    async def announce(self, tenant: str, offer: Offer, *, upload_id: str) -> Upload:
        """An upload that waits for its bytes, if the desk has let it pass; the one of this id if there is one."""
        upload = await self._insert(tenant, offer, upload_id)
        if upload.goes_in_parts and upload.plan is None and upload.status == "pending":
            upload = await self.receiving.begin_parts(upload)
        return upload

    async def take(self, tenant: str, offer: Offer, file: BinaryIO, *, upload_id: str, wait_s: float) -> Upload:
        """The whole of it in one step: a ready upload, or what complete() raises."""
        upload = await self._insert(tenant, offer, upload_id)
        if upload.status == "pending":
            await self.receiving.take(upload, file)
        return await self.complete(tenant, upload_id, wait_s=wait_s)

    async def complete(self, tenant: str, upload_id: str, *, wait_s: float) -> Upload:
        """The ready upload. Raises its refusal; Conflict when nothing was sent, or it is still being looked at.

        Of several at once one looks and the others wait. May be asked again at any time, with the same answer.
        """
        ends_at = asyncio.get_running_loop().time() + wait_s
        while True:
            upload = await self.store.get(tenant, upload_id)
            if upload.status == "ready":
                return upload
            if upload.refusal is not None:
                raise upload.refusal.as_error()
            left_s = ends_at - asyncio.get_running_loop().time()
            if is_claimable(upload):
                if (claimed := await self.store.claim(upload)) is not None:
                    await self._watch(claimed, timeout_s=left_s)
            elif left_s <= 0:
                raise Conflict("It is still being looked at; ask again.", code="upload_checking")
            else:
                await asyncio.sleep(POLL_S)

    async def delete(self, tenant: str, upload_id: str) -> list[Use]:
        """What was made from it. Raises Conflict while it is looked at, or a job that needs it is not over."""
        upload = await self.store.get(tenant, upload_id)
        return await self._ending.delete(upload)

    # For those who make something of it.

    async def require(
        self, tenant: str, upload_id: str, purpose: Purpose | None = None, *, param: str = "upload_id"
    ) -> ReadyUpload:
        """Raises NotFound, Conflict when it is not ready, Unprocessable when it is not what `purpose` says."""
        try:
            upload = await self.store.get(tenant, upload_id)
        except NotFound as error:
            raise NotFound(error.message, param=param, code=error.code) from error
        if purpose not in {None, upload.purpose}:
            raise Unprocessable(
                f"{upload.id} was sent as {upload.purpose}; {purpose} is needed.", param=param, code="wrong_purpose"
            )
        if upload.content is None:
            raise Conflict(f"{upload.id} is {upload.status}, not ready.", param=param, code="upload_not_ready")
        return ReadyUpload(upload.id, upload.purpose, upload.content)

    async def read_image(self, tenant: str, upload_id: str, *, param: str = "upload_id") -> bytes:
        """The picture as it is kept: upright and cleaned."""
        ready = await self.require(tenant, upload_id, "image", param=param)
        return await in_store(self._blobs.get, ready.file.key)

    async def note_use(self, tenant: str, upload_id: str, *, kind: UseKind, id: str) -> None:
        """Call it before the job `id` is stored: from here on the upload stays until that job is over.

        Raises NotFound when the upload is gone: so either this sees the deletion, or the deletion sees the use.
        """
        await self._uses.note(tenant, upload_id, Use(kind, id))

    async def close(self) -> None:
        """Breaks off the looks that it began: their uploads are put back."""
        looks = list(self._looks)
        for look in looks:
            look.cancel()
        if looks:
            await asyncio.wait(looks)

    async def _insert(self, tenant: str, offer: Offer, upload_id: str) -> Upload:
        upload = new_upload(tenant, offer, keep_s=self._keep_s, upload_id=upload_id)
        try:
            await self.store.insert(upload)
        except Conflict:
            return await self.store.get(tenant, upload_id)
        return upload

    async def _watch(self, claimed: Upload, *, timeout_s: float) -> None:
        """Begins a look and waits for it; its own errors are the caller's, while there is one."""
        look = asyncio.create_task(self._checker.run(claimed))
        self._looks.add(look)
        look.add_done_callback(self._forget)
        done, _ = await asyncio.wait({look}, timeout=max(0.0, timeout_s))
        if done:
            look.result()

    def _forget(self, look: asyncio.Task[Upload]) -> None:
        self._looks.discard(look)
        # Asked for here too: nobody waits any more for a look whose caller has hung up.
        if not look.cancelled() and (error := look.exception()) is not None:
            log.info("look came to nothing", reason=str(error) or type(error).__name__)
