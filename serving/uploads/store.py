"""Uploads in MongoDB, always inside a tenant. Knows no bytes.

Each step names the state and the fence it was decided on, so of two that go on at once one changes nothing.
"""

import time
from dataclasses import asdict

from serving.errors import Conflict, LeaseLost, NotFound
from serving.mongo import Collection, Document, Mongo, readable, under
from serving.uploads.content import Purpose
from serving.uploads.documents import NOWHERE, content_to_document, upload_from_document, upload_to_document
from serving.uploads.upload import Content, Hold, PartPlan, Refusal, Status, Upload

LEASE_S = 30.0  # a look that is not renewed for so long has died
GONE: Status = "deleting"
SHOWN: list[Status] = ["pending", "checking", "ready", "failed"]


class UploadStore:
    """The uploads collection."""

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo

    async def insert(self, upload: Upload) -> None:
        """Raises Conflict when there is one of this id."""
        await self._of(upload.tenant).insert(upload_to_document(upload))

    async def get(self, tenant: str, upload_id: str) -> Upload:
        """Raises NotFound, for another tenant's and for one being deleted too."""
        upload = await self.find(tenant, upload_id)
        if upload is None or upload.status == GONE:
            raise NotFound(f"No upload {upload_id[:100]!r}.", param="id", code="upload_not_found")
        return upload

    async def find(self, tenant: str, upload_id: str) -> Upload | None:
        """In whatever state."""
        document = await self._of(tenant).find_one({"_id": upload_id})
        return None if document is None else upload_from_document(document)

    async def page(self, tenant: str, *, purpose: Purpose | None, limit: int, after: str | None) -> list[Upload]:
        """Newest first; `after` is the id of the last one of the page before, NotFound where there is none such."""
        place = under(f"{tenant}/")
        if after is not None:
            place["$lt"] = f"{tenant}/{(await self.get(tenant, after)).id}"
        query: Document = {"place": place, "status": {"$in": SHOWN}} | ({"purpose": purpose} if purpose else {})
        return readable(await self._of(tenant).find(query, sort=[("place", -1)], limit=limit), upload_from_document)

    async def announced(self, tenant: str, *, limit: int) -> list[int]:
        """The sizes of what was announced and not decided yet, of up to `limit` of them."""
        found = await self._of(tenant).find(
            {"pending_place": under(f"{tenant}/")}, sort=[("pending_place", 1)], limit=limit, fields=["num_bytes"]
        )
        return [int(document["num_bytes"]) for document in found]

    async def plan(self, upload: Upload, plan: PartPlan) -> Upload:
        """How it is cut. Raises Conflict when it is not pending any more."""
        changed = await self._change(upload, {"plan": asdict(plan)})
        return _still(changed)

    async def note_urls(self, upload: Upload, until: float) -> Upload:
        """URLs that end then were given out. Raises Conflict when it is not pending any more."""
        return _still(await self._change(upload, {"urls_until": max(until, upload.urls_until)}))

    # Looking at it: whoever has claimed it has LEASE_S, and again with every renewal.

    async def claim(self, upload: Upload) -> Upload | None:
        """The right to decide on it, of one that is pending or whose look has died; None: another was quicker."""
        return await self._change(
            upload,
            {"status": "checking", "holds": NOWHERE, "wake_at": time.time() + LEASE_S},
            fences=True,
            wake_at=upload.wake_at,
        )

    async def renew(self, claimed: Upload) -> None:
        """Raises LeaseLost."""
        await self._write(claimed, {"wake_at": time.time() + LEASE_S})

    async def hold(self, claimed: Upload, hold: Hold) -> Upload:
        """From here on it keeps that object alive, there or not. Raises LeaseLost."""
        return await self._write(claimed, {"hold": asdict(hold), "holds": f"{hold.object_id}/{claimed.id}"})

    async def unhold(self, upload: Upload) -> None:
        """It keeps nothing alive; what it held stays written down until it was let go."""
        await self._change(upload, {"holds": NOWHERE})

    async def put_back(self, claimed: Upload) -> None:
        """Undecided: as if nobody had looked. Raises LeaseLost."""
        await self._write(claimed, {"status": "pending", "hold": None, "wake_at": claimed.expires_at})

    async def finish(self, claimed: Upload, content: Content, hold: Hold) -> Upload:
        """The commit: from here on it is ready. What lies in temp/ is still to be cleared away."""
        return await self._end(
            claimed, {"status": "ready", "content": content_to_document(content), "hold": asdict(hold)}
        )

    async def fail(self, claimed: Upload, refusal: Refusal) -> Upload:
        """The end of a file that is not taken. Raises LeaseLost."""
        return await self._end(claimed, {"status": "failed", "refusal": asdict(refusal), "hold": None})

    # Going.

    async def mark_deleting(self, upload: Upload) -> Upload | None:
        """Gone for everybody; None when it has changed since."""
        changes = {"status": GONE, "pending_place": NOWHERE, "wake_at": time.time() + LEASE_S}
        return await self._change(upload, changes, fences=True)

    async def unmark(self, deleting: Upload, before: Upload) -> None:
        """There again as it was: somebody began to use it at the same time."""
        assert before.status == "ready", f"{before.id} is {before.status}: only what is ready is used"
        await self._change(deleting, {"status": before.status, "wake_at": before.wake_at})

    async def forget(self, deleting: Upload) -> None:
        """The document goes, after all that it speaks of."""
        await self._of(deleting.tenant).delete_one({"_id": deleting.id, "status": GONE})

    async def due(self, *, limit: int) -> list[Upload]:
        """Those of all tenants that want to be looked at, longest due first."""
        found = await self._mongo.across_tenants("uploads", "tidy_uploads").find(
            {"wake_at": {"$gt": 0, "$lte": time.time()}}, sort=[("wake_at", 1)], limit=limit
        )
        return readable(found, upload_from_document)

    async def wake_later(self, upload: Upload, at: float) -> Upload | None:
        """Look at it then; 0 is never. None when it has changed since."""
        return await self._change(upload, {"wake_at": at}, wake_at=upload.wake_at)

    # For those who keep objects.

    async def is_held(self, tenant: str, object_id: str) -> bool:
        """Whether any upload keeps this object alive."""
        return await self._of(tenant).count({"holds": under(f"{object_id}/")}) > 0

    async def is_at_work(self, tenant: str, upload_id: str, fence: int) -> bool:
        """Whether the one with this claim may still be at it."""
        upload = await self.find(tenant, upload_id)
        return (
            upload is not None and (upload.status, upload.fence) == ("checking", fence) and upload.wake_at > time.time()
        )

    async def _end(self, claimed: Upload, changes: Document) -> Upload:
        return await self._write(claimed, {"pending_place": NOWHERE, "wake_at": time.time() + LEASE_S, **changes})

    async def _write(self, claimed: Upload, changes: Document) -> Upload:
        changed = await self._change(claimed, changes)
        if changed is None:
            raise LeaseLost(f"{claimed.id}: fence {claimed.fence} is no longer the newest, or it was decided on")
        return changed

    async def _change(self, seen: Upload, changes: Document, *, fences: bool = False, **and_: float) -> Upload | None:
        """One atomic step from what was seen; `fences`: whoever is at work on it can write nothing more."""
        update: dict[str, Document] = {"$set": changes} | ({"$inc": {"fence": 1}} if fences else {})
        document = await self._of(seen.tenant).find_one_and_update(
            {"_id": seen.id, "status": seen.status, "fence": seen.fence, **and_}, update
        )
        return None if document is None else upload_from_document(document)

    def _of(self, tenant: str) -> Collection:
        return self._mongo.of_tenant("uploads", tenant)


def is_claimable(upload: Upload) -> bool:
    """Pending, or its look has died."""
    return upload.status == "pending" or (upload.status == "checking" and upload.wake_at <= time.time())


def _still(changed: Upload | None) -> Upload:
    if changed is None:
        raise Conflict("The upload is being looked at or has been decided on.", code="upload_not_pending")
    return changed
