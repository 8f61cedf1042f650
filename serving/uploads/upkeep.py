"""What the server does to uploads by itself: forgets, takes up what was interrupted, and finishes what was begun."""

import time

from configs.settings import Settings
from models.blobs import BlobStore
from serving.errors import LeaseLost
from serving.mongo import Mongo
from serving.telemetry import get_logger
from serving.uploads.ending import UploadEnding, forget_at
from serving.uploads.lineage import Jobs, Lineage
from serving.uploads.objects import UploadObjects
from serving.uploads.receiving import Receiving
from serving.uploads.store import UploadStore
from serving.uploads.upload import Upload

log = get_logger("uploads")

RETRY_S = 60.0  # until one is looked at again with which something went wrong


class UploadUpkeep:
    """The uploads of all tenants at the moments that they ask for. Several at once do no harm."""

    def __init__(self, uploads: UploadStore, ending: UploadEnding) -> None:
        self._uploads = uploads
        self._ending = ending

    @classmethod
    def over(cls, mongo: Mongo, blobs: BlobStore, jobs: Jobs, settings: Settings) -> "UploadUpkeep":
        """For a process that has nothing else to do with uploads."""
        uploads = UploadStore(mongo)
        objects, receiving = UploadObjects(mongo, blobs, uploads), Receiving(uploads, blobs, settings)
        return cls(uploads, UploadEnding(uploads, objects, receiving, Lineage(mongo, jobs)))

    async def delete_old(self, *, limit: int) -> int:
        """Does what is due of up to `limit` uploads; how many there were."""
        due = await self._uploads.due(limit=limit)
        for upload in due:
            # First, so that one that cannot be done does not stand in the way of the others for ever.
            if (ours := await self._uploads.wake_later(upload, time.time() + RETRY_S)) is not None:
                await self._do(ours)
        return len(due)

    async def _do(self, upload: Upload) -> None:
        match upload.status:
            case "checking":
                await self._take_up(upload)
            case "deleting":
                await self._ending.finish(upload)
            case "pending":
                await self._ending.forget(upload)
                log.info("upload forgotten", upload_id=upload.id, tenant=upload.tenant)
            case "failed" if forget_at(upload) <= time.time():
                await self._ending.forget(upload)
            case _:
                await self._ending.tidy(upload)

    async def _take_up(self, upload: Upload) -> None:
        """A look that died: what it began to keep goes, and the upload may be completed again."""
        claimed = await self._uploads.claim(upload)
        if claimed is None:
            return
        await self._ending.release(claimed)
        try:
            await self._uploads.put_back(claimed)
        except LeaseLost:
            return  # it took us so long that somebody else has it now
        log.info("interrupted look put back", upload_id=upload.id, tenant=upload.tenant)
