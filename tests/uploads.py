"""True stand-ins for what uploads need: the way to a look in this process, and a client that sends files."""

import asyncio
import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from configs.settings import UploadSettings
from models.blobs import BlobStore
from models.errors import BlobChanged, BlobNotFound
from serving.errors import Unavailable
from serving.uploads.inspecting import Inspected, InspectOrder, UploadRefused, sent_anew
from serving.uploads.inspection import Inspection
from serving.workspace import Workspace
from tests.memory_blobs import MemoryBlobs

UPLOADS = "/v1/uploads"


class LocalFramesLink:
    """FramesLink to an Inspection of this process; what RayFramesLink does, without Ray."""

    def __init__(self, blobs: BlobStore | MemoryBlobs, settings: UploadSettings) -> None:
        self._folder = TemporaryDirectory(prefix="darkroom-looks-")
        self.workspace = Workspace(Path(self._folder.name))
        self._inspection = Inspection(blobs, self.workspace, settings)
        self.orders: list[InspectOrder] = []
        self.is_lost = False  # True: nobody answers
        self.gate = asyncio.Event()  # cleared: looking takes until it is set
        self.gate.set()

    async def inspect(self, order: InspectOrder, *, timeout_s: float) -> Inspected:
        self.orders.append(order)
        if self.is_lost:
            raise Unavailable("Nobody looks at uploads now.", code="frames_unavailable")
        try:
            async with asyncio.timeout(timeout_s):
                await self.gate.wait()
                return await self._inspection.inspect(order)
        except TimeoutError as error:
            raise Unavailable("Nobody has looked in time.", code="frames_unavailable") from error

    @property
    def left_behind(self) -> list[str]:
        """What looks have left on the disk."""
        return [path.name for path in self.workspace.path.iterdir()]

    def close(self) -> None:
        self.workspace.close()
        self._folder.cleanup()


def offer(data: bytes, content_type: str, purpose: str, **more: Any) -> dict[str, Any]:
    """The body that announces these bytes."""
    return {"filename": "a file", "content_type": content_type, "bytes": len(data), "purpose": purpose, **more}


async def announced(client: httpx.AsyncClient, data: bytes, content_type: str, purpose: str, **more: Any) -> Any:
    answer = await client.post(UPLOADS, json=offer(data, content_type, purpose, **more))
    assert answer.status_code == 201, answer.text
    return answer.json()


async def sent(
    client: httpx.AsyncClient, blobs: MemoryBlobs, data: bytes, content_type: str, purpose: str, **more: Any
) -> Any:
    """Announced, and put where it belongs."""
    upload = await announced(client, data, content_type, purpose, **more)
    assert blobs.send(upload["url"], data, upload["headers"]) == 200
    return upload


async def completed(
    client: httpx.AsyncClient, blobs: MemoryBlobs, data: bytes, content_type: str, purpose: str, **more: Any
) -> httpx.Response:
    """The answer to its completion."""
    upload = await sent(client, blobs, data, content_type, purpose, **more)
    return await client.post(f"{UPLOADS}/{upload['id']}/complete")


class QuickLook:
    """FramesLink without a sandbox, for tests of what is done around a look: any bytes are a picture, or a video.

    Refuses what begins with `bad`; reads exactly the object that it is sent to, as the true look does.
    """

    def __init__(self, blobs: MemoryBlobs) -> None:
        self._blobs = blobs
        self.orders: list[InspectOrder] = []
        self.gate = asyncio.Event()  # cleared: looking takes until it is set
        self.gate.set()
        self.is_lost = False

    async def inspect(self, order: InspectOrder, *, timeout_s: float) -> Inspected:
        self.orders.append(order)
        await self.gate.wait()
        if self.is_lost:
            raise Unavailable("Nobody looks at uploads now.", code="frames_unavailable")
        try:
            data = b"".join(self._blobs.read(order.key, etag=order.etag))
        except (BlobChanged, BlobNotFound) as error:
            raise sent_anew() from error
        if data.startswith(b"bad"):
            raise UploadRefused("damaged", "The file is damaged.")
        sha256 = hashlib.sha256(data).hexdigest()
        if order.purpose == "video":
            return Inspected(sha256, len(data), "video/mp4", {"kind": "video", "duration_s": 1.0})
        return Inspected(sha256, len(data), "image/png", {"kind": "image"}, b"clean " + data, b"small")
