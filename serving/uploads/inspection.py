"""The look itself, as a Frames replica does it: fetch the object, hash it, have it taken apart in a sandbox.

Loads no decoder: the sandbox's child does.
"""

import asyncio
import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.settings import UploadSettings
from models.blobs import BlobStore
from models.errors import BlobChanged, BlobNotFound
from pipelines.sandbox import Bounds, WorkKilled, WorkRefused, run_apart
from serving.adapters.store import in_store
from serving.errors import Unavailable
from serving.uploads.content import CONTAINERS
from serving.uploads.inspecting import Inspected, InspectOrder, UploadRefused, sent_anew
from serving.workspace import Workspace

WORK = "pipelines.intake.look:look"
MAX_FILE_BYTES = 268_435_456  # of a cleaned picture; of a video nothing is written
KILLED = {
    "time": ("takes_too_long", "Looking at the file takes longer than the server allows."),
    "memory": ("takes_too_much", "Looking at the file takes more memory than the server allows."),
    "crash": ("damaged", "The file cannot be read: what decodes it broke."),
}


class Inspection:
    """Looks at a few objects at a time."""

    def __init__(self, blobs: BlobStore, workspace: Workspace, settings: UploadSettings) -> None:
        self._blobs = blobs
        self._workspace = workspace
        self._places = asyncio.Semaphore(settings.max_checks_at_once)
        self._bounds = Bounds(
            wall_s=settings.check_timeout_s, memory_bytes=settings.check_memory_bytes, file_bytes=MAX_FILE_BYTES
        )

    async def inspect(self, order: InspectOrder) -> Inspected:
        """What the object is. Raises UploadRefused; Conflict when it was replaced meanwhile; Unavailable."""
        async with self._places, self._workspace.room() as folder:
            if not self._workspace.has_room_for(order.num_bytes):
                raise Unavailable("There is no room on the disk to look at the file.", code="disk_full")
            path = folder / "sent"
            sha256 = await in_store(self._fetch, order, path)
            found = await self._look(order, path, folder)
            return await asyncio.to_thread(_inspected, found, sha256, order.num_bytes)

    async def _look(self, order: InspectOrder, path: Path, folder: Path) -> dict[str, Any]:
        arguments = {
            "path": str(path),
            "folder": str(folder),
            "purpose": order.purpose,
            "limits": asdict(order.limits),
        }
        try:
            return await run_apart(WORK, arguments, bounds=self._bounds)
        except WorkRefused as error:
            raise UploadRefused(error.code, str(error)) from error
        except WorkKilled as error:
            raise UploadRefused(*KILLED[error.reason]) from error

    def _fetch(self, order: InspectOrder, path: Path) -> str:
        """Its SHA-256. In a thread."""
        digest, num_bytes = hashlib.sha256(), 0
        try:
            with path.open("wb") as file:
                for chunk in self._blobs.read(order.key, etag=order.etag):
                    num_bytes += len(chunk)
                    if num_bytes > order.max_bytes:
                        raise UploadRefused("too_large", f"The file has more than {order.max_bytes} bytes.")
                    digest.update(chunk)
                    file.write(chunk)
        except (BlobChanged, BlobNotFound) as error:
            raise sent_anew() from error
        return digest.hexdigest()


def _inspected(found: dict[str, Any], sha256: str, num_bytes: int) -> Inspected:
    media = found["media"]
    return Inspected(
        sha256=sha256,
        num_bytes=num_bytes,
        content_type=found.get("content_type") or CONTAINERS[media["container"]],
        media=media,
        cleaned=_read(found.get("cleaned")),
        thumbnail=_read(found.get("thumbnail")),
    )


def _read(path: str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
