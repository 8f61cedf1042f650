"""What ready uploads hold: each content once per tenant, for as long as an upload holds it. MongoDB decides.

Uploads point at objects; nobody counts. To come: the upload writes down that it holds the object, then the object is
made, or touched where it is there. To go: the upload writes down that it holds it no longer; then, if no other does,
the object is marked, provided that nobody touched it since before that look. So either the one who comes sees the
mark, or the one who marks sees who comes.

A document is there before the first byte and goes after the last. Each life of an object has a nonce in its keys, so
what a dead one's undertaker still deletes is never a living one's.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from models.blobs import BlobStore
from pipelines.request import StoredFile
from serving.adapters.store import in_store
from serving.errors import Conflict, LeaseLost, Unavailable
from serving.mongo import Collection, Document, Mongo
from serving.uploads.accounts import Accounts
from serving.uploads.store import UploadStore
from serving.uploads.upload import Hold, Upload

WAIT_S = 120.0  # for another who stores the same bytes right now
POLL_S = 0.1
MAX_TRIES = 20
State = Literal["coming", "stored", "going"]


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One life of a content: its keys, and how far it is."""

    id: str
    tenant: str
    nonce: str
    maker: str  # the upload that brings it, and its claim
    maker_fence: int
    file: StoredFile
    thumbnail_key: str | None
    num_bytes: int  # of all its keys
    state: State = "coming"
    touches: int = 0
    taker: str = ""  # of one that is going, whose bytes were counted: who takes it away

    @property
    def keys(self) -> list[str]:
        return [self.file.key, *([self.thumbnail_key] if self.thumbnail_key else [])]

    @property
    def hold(self) -> Hold:
        return Hold(self.id, self.nonce)


def object_id(upload: Upload, sha256: str, variant: str) -> str:
    """The same for the same bytes, sent for the same purpose and kept in the same way."""
    return f"{upload.tenant}/{upload.purpose}/{sha256}/{variant}"


class UploadObjects:
    """The upload_objects collection, and the objects that it speaks of."""

    def __init__(self, mongo: Mongo, blobs: BlobStore, uploads: UploadStore) -> None:
        self._mongo = mongo
        self._blobs = blobs
        self._uploads = uploads
        self.accounts = Accounts(mongo)

    async def keep(self, ours: StoredObject, write: Callable[[], None], *, limit_bytes: int) -> StoredObject:
        """The object that is there, or `ours`, which `write` puts into the store. The upload must hold it already."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            found = await self._find(ours.tenant, ours.id)
            if found is None:
                try:
                    await self._of(ours.tenant).insert(_document(ours))
                except Conflict:
                    continue
                return await self._make(ours, write, limit_bytes=limit_bytes)
            if found.state == "stored" and await self._touch(found):
                return found
            if found.state == "going" or (found.state == "coming" and await self._is_abandoned(found)):
                await self._remove(found)
            elif found.state == "coming":
                await asyncio.sleep(POLL_S)
        raise Unavailable("The same bytes are being stored by another upload.", code="storage_busy")

    async def let_go(self, tenant: str, hold: Hold) -> None:
        """Whoever held it holds it no longer: it goes, unless another does. To be done again until it has been done."""
        for _ in range(MAX_TRIES):
            found = await self._find(tenant, hold.object_id)
            if found is None or found.nonce != hold.nonce:
                await self.accounts.forget(tenant, hold.nonce)
            if found is None or (found.state != "going" and await self._uploads.is_held(tenant, found.id)):
                return
            await self._remove(found)
        raise Unavailable("The object is being used and let go too often.", code="storage_busy")

    async def _make(self, ours: StoredObject, write: Callable[[], None], *, limit_bytes: int) -> StoredObject:
        """Broken off, it is removed by whoever lets go of it."""
        await self.accounts.begin(ours.tenant, ours.nonce, ours.num_bytes, limit_bytes=limit_bytes)
        await in_store(write)
        mine: Document = {"_id": ours.id, "nonce": ours.nonce, "state": "coming"}
        if not await self._of(ours.tenant).update_one(mine, {"$set": {"state": "stored"}}):
            # We were away for so long that it was taken for abandoned.
            await in_store(self._blobs.delete_many, ours.keys)
            await self.accounts.forget(ours.tenant, ours.nonce)
            raise LeaseLost(f"{ours.maker}: its object was removed while it was written")
        await self.accounts.settle(ours.tenant, ours.nonce)
        return ours

    async def _touch(self, found: StoredObject) -> bool:
        alive: Document = {"_id": found.id, "nonce": found.nonce, "state": "stored"}
        return await self._of(found.tenant).update_one(alive, {"$inc": {"touches": 1}})

    async def _is_abandoned(self, found: StoredObject) -> bool:
        return not await self._uploads.is_at_work(found.tenant, found.maker, found.maker_fence)

    async def _remove(self, seen: StoredObject) -> None:
        """Marks it, unless it has changed since; then does, or does again, what is left of its going."""
        if seen.state != "going":
            marked = await self._mark(seen)
            if marked is None:
                return
            seen = marked
        await in_store(self._blobs.delete_many, seen.keys)
        if seen.taker:
            await self.accounts.end(seen.tenant, seen.nonce, seen.taker)
        await self.accounts.forget(seen.tenant, seen.nonce)
        await self._of(seen.tenant).delete_one({"_id": seen.id, "nonce": seen.nonce})

    async def _mark(self, seen: StoredObject) -> StoredObject | None:
        """Makes us the ones who take it away, if it is still as it was seen."""
        taker = secrets.token_hex(8) if seen.state == "stored" else ""
        if taker:
            await self.accounts.intend(seen.tenant, seen.nonce, taker, seen.num_bytes)
        unchanged: Document = {"_id": seen.id, "nonce": seen.nonce, "state": seen.state, "touches": seen.touches}
        document = await self._of(seen.tenant).find_one_and_update(
            unchanged, {"$set": {"state": "going", "taker": taker}}
        )
        if document is not None:
            return _object(document)
        if taker:
            await self.accounts.leave(seen.tenant, taker)
        return None

    async def _find(self, tenant: str, object_id: str) -> StoredObject | None:
        document = await self._of(tenant).find_one({"_id": object_id})
        return None if document is None else _object(document)

    def _of(self, tenant: str) -> Collection:
        return self._mongo.of_tenant("upload_objects", tenant)


def _document(stored: StoredObject) -> Document:
    fields = asdict(stored)
    return {"_id": fields.pop("id"), **fields}


def _object(document: Document) -> StoredObject:
    fields = {name: value for name, value in document.items() if name != "_id"}
    fields["file"] = StoredFile(**document["file"])
    return StoredObject(id=document["_id"], **fields)
