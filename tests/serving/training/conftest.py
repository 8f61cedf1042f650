"""Training sessions with all around them: S3 in memory, stills that cost nothing, works that train no model."""

import hashlib
import io
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from PIL import Image

from configs.settings import Settings
from models.catalog import load_catalog
from models.spec import ModelSpec
from pipelines.request import (
    FramesRequest,
    FramesResult,
    Preview,
    Progress,
    StoredFile,
    StoredFrame,
    TrainedAdapter,
    TrainingRequest,
    TrainingSource,
)
from serving.backends.base import Order
from serving.backends.frames import FramesFailure, FramesMessage
from serving.backends.training import TrainerMessage, TrainingFailure
from serving.tenancy.policies import ModerationPolicy
from serving.training import course, estimating, preparation
from serving.training.session import TrainingSessions
from serving.training.workshop import Workshop
from serving.workspace import Workspace
from tests.memory_blobs import MemoryBlobs
from training.recipe import load_recipe

STAND_IN = "tests.serving.training.stand_in"
MODEL = "emoji-3d"
JOB_ID, PREFIX = "job_1", "tenants/alice/datasets/-/job_1/"
POLICY = ModerationPolicy("block", 0.8, 0.5)


class QuickStills:
    """ExtractionLink without a decoder: any bytes are a video, with as many stills as `counts` says, one by one."""

    def __init__(self, blobs: MemoryBlobs) -> None:
        self._blobs = blobs
        self.orders: list[Order] = []
        self.counts = deque[int]()  # of the next videos; else all that may be
        self.troubles: deque[FramesFailure | BaseException | None] = deque()  # of the next attempts

    async def extract(self, order: Order, policy: ModerationPolicy) -> AsyncGenerator[FramesMessage, None]:
        assert policy == POLICY
        request = order.request
        assert isinstance(request, FramesRequest)
        self.orders.append(order)
        yield Progress(50, 100)
        trouble = self.troubles.popleft() if self.troubles else None
        if isinstance(trouble, BaseException):
            raise trouble
        if trouble is not None:
            yield trouble
            return
        number = self.counts.popleft() if self.counts else request.max_frames
        frames = tuple(self._still(order.output_prefix, place) for place in range(number))
        sheet = f"{order.output_prefix}sheet.jpg"
        self._blobs.put(sheet, b"a contact sheet", "image/jpeg")
        yield FramesResult(frames, (), sheet, engine_s=0.5, waited_s=0.0, device_s=0.5)

    async def is_ready(self, *, timeout_s: float) -> bool:
        return True

    def _still(self, prefix: str, place: int) -> StoredFrame:
        key, data = f"{prefix}{place:03}.png", f"{prefix} {place}".encode()
        self._blobs.put(key, data, "image/png")
        sha256 = hashlib.sha256(data).hexdigest()
        return StoredFrame(key, "image/png", len(data), sha256, 64, 48, float(place), 0, 1.0, 128.0, None)


class Bench:
    """Sessions and all around them."""

    def __init__(self, state_dir: Path, **training: Any) -> None:
        self.blobs = MemoryBlobs()
        self.stills = QuickStills(self.blobs)
        self.workspace = Workspace(state_dir / "work")
        tree = {
            "state_dir": state_dir,
            "models": {"device": "cpu"},
            "training": {"num_threads": 1, "niceness": 0, **training},
        }
        self.settings = Settings.model_validate(tree)
        self.spec: ModelSpec = load_catalog()[MODEL]
        self.workshop = Workshop.over(
            self.blobs,
            self.stills,
            self.workspace,
            {MODEL: self.spec},
            self.settings,  # type: ignore[arg-type]
        )
        self.sessions = TrainingSessions(self.workshop)
        self.told: list[Progress | Preview] = []

    def source(self, upload_id: str = "upl_1", data: bytes = b"a video") -> TrainingSource:
        """An upload that is a video, four seconds of it."""
        return TrainingSource(upload_id, "video", self._uploaded(upload_id, data), 4.0)

    def picture(
        self, upload_id: str = "upl_9", *, format: str = "PNG", size: tuple[int, int] = (40, 30)
    ) -> TrainingSource:
        file = io.BytesIO()
        Image.new("RGB", size, "teal").save(file, format)
        return TrainingSource(upload_id, "image", self._uploaded(upload_id, file.getvalue()))

    def order(self, *sources: TrainingSource, job_id: str = JOB_ID, **wish: Any) -> Order:
        """`mood`: how the stand-in behaves; `frames`: the recipe's wish."""
        mood, frames, steps = wish.pop("mood", {}), wish.pop("frames", {}), wish.pop("steps", 6)
        recipe = load_recipe("subject", self.spec, {"frames": {"max_per_video": 3, "enough": 2, **frames}})
        request = TrainingRequest(
            **{
                "name": "signer",
                "base_model": MODEL,
                "trigger": json.dumps(mood),
                "caption": "template",
                "recipe": "subject",
                "recipe_json": recipe.to_json(),
                "steps": steps,
                "rank": recipe.lora.rank,
                "resolution_px": 128,
                "seed": 7,
                "sources": sources or (() if wish.get("dataset") else (self.source(),)),
                **wish,
            }
        )
        return Order(job_id, "alice", request, PREFIX.replace(JOB_ID, job_id), created_at=1_800_000_000.5)

    def messages(self, order: Order) -> AsyncGenerator[TrainerMessage, None]:
        return self.sessions.messages(order, POLICY)

    async def outcome(self, order: Order) -> TrainedAdapter | TrainingFailure:
        """What the last message says; the others are in `told`."""
        self.told.clear()
        async with aclosing(self.messages(order)) as messages:
            async for message in messages:
                if isinstance(message, TrainedAdapter | TrainingFailure):
                    return message
                self.told.append(message)
        raise AssertionError("no last word")

    async def train(self, order: Order) -> TrainedAdapter:
        made = await self.outcome(order)
        assert isinstance(made, TrainedAdapter), made
        return made

    async def fail(self, order: Order) -> TrainingFailure:
        failure = await self.outcome(order)
        assert isinstance(failure, TrainingFailure), failure
        return failure

    def stored(self, prefix: str = PREFIX) -> list[str]:
        """Names below it."""
        return [key.removeprefix(prefix) for key in self.blobs.keys if key.startswith(prefix)]

    def assert_clean(self) -> None:
        """Nothing on the disk, nothing at work."""
        assert [path.name for path in self.workspace.path.iterdir() if path.name != "measured"] == []
        assert children() == []

    def _uploaded(self, upload_id: str, data: bytes) -> StoredFile:
        key = f"tenants/alice/uploads/-/{upload_id}/1-file"
        self.blobs.put(key, data, "application/octet-stream")
        return StoredFile(key, hashlib.sha256(data).hexdigest())


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if _is_sandboxed(child)]


def _is_sandboxed(child: psutil.Process) -> bool:
    try:
        return "pipelines.sandboxed" in child.cmdline()
    except psutil.NoSuchProcess:
        return False  # gone meanwhile


@pytest_asyncio.fixture
async def make_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Bench]]:
    for name in ("PREPARE_WORK", "CAPTIONED_PREPARE_WORK"):
        monkeypatch.setattr(preparation, name, f"{STAND_IN}:prepare")
    monkeypatch.setattr(course, "TRAIN_WORK", f"{STAND_IN}:train")
    monkeypatch.setattr(estimating, "MEASURE_WORK", f"{STAND_IN}:measure")
    benches: list[Bench] = []

    def make(**training: Any) -> Bench:
        benches.append(Bench(tmp_path, **training))
        return benches[-1]

    yield make
    for bench in benches:
        bench.workspace.close()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()
