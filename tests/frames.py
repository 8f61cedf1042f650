"""A true stand-in for the Frames replicas: the way to an Extraction of this process, and videos to send there."""

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np

from pipelines.work import Tell
from serving.backends.base import Order
from serving.backends.frames import FramesFailure, FramesMessage
from serving.errors import Unavailable
from serving.frames.extraction import Extraction
from serving.tenancy.policies import ModerationPolicy
from tests import drawings
from tests.clips import make_clip
from tests.memory_blobs import MemoryBlobs
from tests.moderators import MARKER
from tests.uploads import completed

FRAMES = "/v1/frames"
SIZE = (320, 192)
SCENE_FRAMES = 30  # one second
MARKED_PX = 16  # sides of the fields of a marked scene


class LocalExtractionLink:
    """ExtractionLink to an Extraction of this process; what RayFramesLink does, without Ray."""

    def __init__(self, extraction: Extraction) -> None:
        self._extraction = extraction
        self.orders: list[Order] = []
        self.is_lost = False  # True: there is nobody
        self.troubles: deque[FramesFailure | BaseException] = deque()  # of the next attempts, after their first word

    async def extract(self, order: Order, policy: ModerationPolicy) -> AsyncGenerator[FramesMessage, None]:
        self.orders.append(order)
        if self.is_lost:
            raise Unavailable("Nobody takes stills now.", code="frames_unavailable")
        async with aclosing(self._extraction.messages(order, policy)) as messages:
            async for message in messages:
                yield message
                if self.troubles:
                    trouble = self.troubles.popleft()
                    if isinstance(trouble, BaseException):
                        raise trouble
                    yield trouble
                    return

    async def is_ready(self, *, timeout_s: float) -> bool:
        return not self.is_lost


def scenes(index: int, width_px: int, height_px: int) -> drawings.Pixels:
    """A new scene every second; half of the second one is what the stand-in classifier looks for."""
    picture = drawings.cuts(index, width_px, height_px, every=SCENE_FRAMES)
    if index // SCENE_FRAMES == 1:
        y_px, x_px = np.mgrid[:height_px, :width_px] // MARKED_PX
        picture = np.where(((x_px + y_px) % 2 == 0)[..., None], np.array(MARKER, np.uint8), np.uint8(30))
        picture[: MARKED_PX // 2, index % SCENE_FRAMES * 8 :][:, :16] = 255
    return picture.astype(np.uint8)


@cache
def video(seconds: float = 3.0) -> bytes:
    """An MP4 of `scenes`, one for each second."""
    with TemporaryDirectory(prefix="darkroom-clip-") as folder:
        return make_clip(Path(folder) / "scenes.mp4", draw=scenes, size=SIZE, seconds=seconds).path.read_bytes()


def share_marked(rgb: np.ndarray) -> float:
    """How much of a picture is what must not be seen."""
    distance = np.abs(rgb.astype(np.int16) - np.array(MARKER, np.int16)).max(axis=-1)
    return float((distance < 40).mean())


async def uploaded(client: httpx.AsyncClient, blobs: MemoryBlobs, data: bytes, **more: Any) -> str:
    """The id of an MP4 that is ready."""
    answer = await completed(client, blobs, data, "video/mp4", "video", **more)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def hoard(_arguments: dict[str, Any], _tell: Tell) -> dict[str, Any]:
    """A piece of work that wants more memory than there is."""
    return {"num_bytes": len(bytearray(10**15))}
