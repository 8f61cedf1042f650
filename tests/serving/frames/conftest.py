"""An Extraction with all around it: S3 in memory, a classifier that knows one colour, a folder of its own."""

import hashlib
import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import pytest_asyncio
from PIL import Image

from configs.settings import Settings
from pipelines.request import FramesRequest, FramesResult, Progress, StoredFile
from serving.backends.base import Order
from serving.backends.frames import FramesMessage
from serving.frames.extraction import Extraction
from serving.tenancy.policies import ModerationPolicy
from serving.workspace import Workspace
from tests.frames import video
from tests.memory_blobs import MemoryBlobs
from tests.moderators import LocalModeratorLink

KEY, PREFIX = "tenants/alice/uploads/-/upl_1/1-video", "tenants/alice/frames/-/job_1/7-"


class Bench:
    """An Extraction and all around it."""

    def __init__(self, folder: Path, **frames: Any) -> None:
        self.blobs = MemoryBlobs()
        self.moderator = LocalModeratorLink()
        self.workspace = Workspace(folder)
        settings = Settings.model_validate({"frames": {"num_threads": 1, **frames}})
        self.extraction = Extraction(self.blobs, self.moderator, self.workspace, settings)
        self.progress: list[Progress] = []

    def order(self, data: bytes | None = None, **wish: Any) -> Order:
        data = video() if data is None else data
        self.blobs.put(KEY, data, "video/mp4")
        file = StoredFile(KEY, hashlib.sha256(data).hexdigest())
        request = FramesRequest("upl_1", file, duration_s=3.0, **({"max_frames": 24} | wish))
        return Order("job_1", "alice", request, PREFIX)

    async def extract(self, order: Order, action: Any = "block", threshold: float = 0.3) -> FramesResult:
        policy = ModerationPolicy(action, sexual_threshold=threshold, minors_threshold=0.5)
        return await self.extraction.extract(order, policy, self.progress.append)

    def messages(self, order: Order) -> AsyncGenerator[FramesMessage, None]:
        return self.extraction.messages(order, ModerationPolicy("off", 0.8, 0.5))

    def pixels(self, key: str) -> np.ndarray:
        with Image.open(io.BytesIO(self.blobs.get(key))) as picture:
            return np.asarray(picture.convert("RGB"))

    @property
    def stored(self) -> list[str]:
        return [key for key in self.blobs.keys if key != KEY]

    def assert_clean(self) -> None:
        """Nothing on the disk, nothing at work."""
        assert list(self.workspace.path.iterdir()) == []
        assert children() == []


def children() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    return [child for child in found if "pipelines.sandboxed" in child.cmdline()]


@pytest_asyncio.fixture
async def make_bench(tmp_path: Path) -> AsyncIterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def make(**frames: Any) -> Bench:
        benches.append(Bench(tmp_path, **frames))
        return benches[-1]

    yield make
    for bench in benches:
        bench.workspace.close()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()
