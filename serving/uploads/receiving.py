"""How the bytes of an upload come in: URLs to send them to, whole or in parts, and the way out of temp/ again."""

import asyncio
import time
from dataclasses import dataclass
from typing import BinaryIO

from configs.settings import Settings
from models.blobs import BlobInfo, BlobStore, Part
from models.errors import BlobNotFound
from serving.adapters.store import in_store
from serving.errors import BadInput, Conflict
from serving.uploads.inspecting import UploadRefused
from serving.uploads.store import UploadStore
from serving.uploads.upload import PartPlan, Upload, part_size

MAX_NAMED = 10  # missing parts in a message


@dataclass(frozen=True, slots=True)
class PartState:
    """One part: whether it has arrived, and where to send it if not."""

    number: int
    num_bytes: int
    has_arrived: bool
    url: str | None


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a client needs to send a file that goes in one piece."""

    url: str
    headers: dict[str, str]


class Receiving:
    """Knows temp/ and the object store; whether the file is any good is for others to say."""

    def __init__(self, uploads: UploadStore, blobs: BlobStore, settings: Settings) -> None:
        self._uploads = uploads
        self._blobs = blobs
        self._settings = settings.uploads
        self._url_expiry_s = settings.s3.url_expiry_s

    async def begin_parts(self, upload: Upload) -> Upload:
        """From here on its parts can be sent."""
        parts_id = await in_store(self._blobs.parts.begin, upload.incoming_key, upload.content_type)
        return await self._uploads.plan(
            upload, PartPlan(parts_id, part_size(upload.num_bytes, self._settings.part_bytes))
        )

    async def ticket(self, upload: Upload) -> tuple[Upload, Ticket | None]:
        """A fresh URL for one piece; None where it is sent in parts, for those have their own."""
        upload, expiry_s = await self._urls_end(upload)
        if upload.goes_in_parts:
            return upload, None
        # The length is signed too: nobody can send more than was announced and allowed.
        url = self._blobs.presign_put(upload.incoming_key, expiry_s, upload.content_type, upload.num_bytes)
        return upload, Ticket(url, {"Content-Type": upload.content_type, "Content-Length": str(upload.num_bytes)})

    async def parts(self, upload: Upload) -> tuple[Upload, list[PartState]]:
        """All parts, with fresh URLs for those that have not arrived."""
        if upload.goes_in_parts and upload.plan is None:  # whoever announced it has died
            upload = await self.begin_parts(upload)
        plan = _plan_of(upload)
        upload, expiry_s = await self._urls_end(upload)
        arrived = await self._arrived(upload, plan)
        if arrived is None:  # put together by a look that then died
            arrived = [Part(n, size, "") for n, size in enumerate(plan.sizes(upload.num_bytes), start=1)]
        whole = {part.number: part.size_bytes for part in arrived}
        states = [
            PartState(number, size, has_arrived=whole.get(number) == size, url=None)
            for number, size in enumerate(plan.sizes(upload.num_bytes), start=1)
        ]
        # A thousand signatures take a while: not on the loop.
        return upload, await asyncio.to_thread(self._signed, upload, plan, states, expiry_s)

    async def take(self, upload: Upload, file: BinaryIO) -> None:
        """A file that came through us."""
        await in_store(self._blobs.put_stream, upload.incoming_key, file, upload.content_type)

    async def collect(self, claimed: Upload) -> BlobInfo:
        """The whole object in temp/. Raises Conflict while it is not there, UploadRefused for another size."""
        if claimed.goes_in_parts:
            await self._put_together(claimed, _plan_of(claimed))
        info = await in_store(self._head, claimed.incoming_key)
        if info is None:
            raise Conflict("The file has not been sent yet: PUT it to the upload's url first.", code="not_sent")
        if info.size_bytes != claimed.num_bytes:
            raise UploadRefused(
                "size_mismatch", f"{claimed.num_bytes} bytes were announced, and {info.size_bytes} were sent."
            )
        return info

    async def clear(self, upload: Upload) -> None:
        """Nothing of it is left in temp/, but for what a client sends later to a URL that is still good."""
        if upload.goes_in_parts:
            await in_store(self._blobs.parts.abort_all, upload.incoming_key)
        await in_store(self._blobs.delete, upload.incoming_key)

    async def _put_together(self, claimed: Upload, plan: PartPlan) -> None:
        arrived = await self._arrived(claimed, plan)
        if arrived is None:
            return
        whole = {part.number: part for part in arrived}
        sizes = dict(enumerate(plan.sizes(claimed.num_bytes), start=1))
        missing = [n for n, size in sizes.items() if n not in whole or whole[n].size_bytes != size]
        if missing:
            named = ", ".join(map(str, missing[:MAX_NAMED])) + (" …" if len(missing) > MAX_NAMED else "")
            raise Conflict(
                f"{len(missing)} of {len(sizes)} parts have not arrived whole: {named}. "
                f"GET /v1/uploads/{claimed.id}/parts gives their URLs.",
                code="parts_missing",
            )
        parts = [whole[number] for number in sizes]
        await in_store(self._blobs.parts.finish, claimed.incoming_key, plan.parts_id, parts)

    async def _arrived(self, upload: Upload, plan: PartPlan) -> list[Part] | None:
        """None once they were put together."""
        return await in_store(self._list_parts, upload.incoming_key, plan.parts_id)

    async def _urls_end(self, upload: Upload) -> tuple[Upload, int]:
        """Writes down until when URLs are good that are given out now: what is sent to them must be cleared away."""
        expiry_s = max(1, min(self._url_expiry_s, int(upload.expires_at - time.time())))
        return await self._uploads.note_urls(upload, time.time() + expiry_s), expiry_s

    # In a thread: the object store blocks.

    def _signed(self, upload: Upload, plan: PartPlan, states: list[PartState], expiry_s: int) -> list[PartState]:
        return [state if state.has_arrived else self._sign(upload, plan, state, expiry_s) for state in states]

    def _sign(self, upload: Upload, plan: PartPlan, state: PartState, expiry_s: int) -> PartState:
        url = self._blobs.parts.presign(
            upload.incoming_key, plan.parts_id, state.number, num_bytes=state.num_bytes, expiry_s=expiry_s
        )
        return PartState(state.number, state.num_bytes, has_arrived=False, url=url)

    def _head(self, key: str) -> BlobInfo | None:
        try:
            return self._blobs.head(key)
        except BlobNotFound:
            return None

    def _list_parts(self, key: str, parts_id: str) -> list[Part] | None:
        try:
            return self._blobs.parts.list(key, parts_id)
        except BlobNotFound:
            return None


def _plan_of(upload: Upload) -> PartPlan:
    if not upload.goes_in_parts:
        raise BadInput("This file is sent in one piece, to the upload's url.", param="id", code="not_in_parts")
    if upload.plan is None:
        raise Conflict("No part has been sent yet.", code="not_sent")
    return upload.plan
