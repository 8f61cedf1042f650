"""UploadUses: where whoever makes something of an upload writes it down. Looks whether the upload is there."""

from serving.errors import NotFound
from serving.mongo import Mongo
from serving.uploads.lineage import Jobs, Lineage, Use
from serving.uploads.store import UploadStore


class UploadUses:
    """One for each process."""

    def __init__(self, uploads: UploadStore, lineage: Lineage) -> None:
        self._uploads = uploads
        self._lineage = lineage

    @classmethod
    def over(cls, mongo: Mongo, jobs: Jobs) -> "UploadUses":
        """For a process that has nothing else to do with uploads."""
        return cls(UploadStore(mongo), Lineage(mongo, jobs))

    async def note(self, tenant: str, upload_id: str, use: Use) -> None:
        """Call it before what it speaks of is stored: from here on the upload stays until a job that uses it is over.

        Raises NotFound when the upload is gone: so either this sees the deletion, or the deletion sees the use.
        """
        await self._lineage.note(tenant, upload_id, use)
        try:
            await self._uploads.get(tenant, upload_id)
        except NotFound:
            await self._lineage.drop(tenant, upload_id, use)
            raise

    async def note_adapter(self, tenant: str, upload_id: str, reference: str) -> None:
        """A version that was made from it; of an upload that is gone by then, only the version's manifest tells."""
        try:
            await self.note(tenant, upload_id, Use("lora", reference))
        except NotFound:
            return

    async def drop_adapter(self, tenant: str, upload_id: str, reference: str) -> None:
        """That version is gone, or did not come to be."""
        await self._lineage.drop(tenant, upload_id, Use("lora", reference))
