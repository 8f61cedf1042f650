"""What a training will take, before it starts: from this machine's own figures, which are measured where they miss."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from configs.settings import TrainingSettings
from pipelines.request import TrainingRequest
from serving.backends.training import TrainingError, TrainingEstimate
from serving.telemetry import get_logger
from serving.training.apart import Apart
from serving.training.speeds import Speeds, key
from serving.workspace import Workspace
from training.orders import MEASURE_WORK, BaseModel, Measured, MeasureOrder
from training.recipe import Recipe

log = get_logger("training")

CGROUP = Path("/sys/fs/cgroup")  # version 2, as containers see their own


@dataclass(frozen=True, slots=True)
class Plan:
    """One training, as far as its cost goes."""

    recipe: Recipe
    base: BaseModel
    video_s: float
    num_pictures: int  # at most

    @classmethod
    def of(cls, request: TrainingRequest, recipe: Recipe, base: BaseModel) -> Self:
        """Of an earlier dataset, into which nobody has looked, as many pictures are expected as of one video."""
        sources = request.sources
        num_videos = sum(source.kind == "video" for source in sources) + (request.dataset is not None)
        num_images = sum(source.kind == "image" for source in sources)
        video_s = sum(source.duration_s for source in sources)
        return cls(recipe, base, video_s, num_videos * recipe.frames.max_per_video + num_images)


class Estimates:
    """What is known of this machine."""

    def __init__(self, speeds: Speeds, apart: Apart, workspace: Workspace, settings: TrainingSettings) -> None:
        self._speeds = speeds
        self._apart = apart
        self._workspace = workspace
        self._settings = settings
        self._one_at_a_time = asyncio.Lock()

    async def figures(self, recipe: Recipe, base: BaseModel) -> Measured:
        """Measured by a few steps where nobody knows them yet. TrainingError where even these cannot be made."""
        name = self.key(recipe, base)
        async with self._one_at_a_time:
            if (known := self._speeds.get(name)) is not None:
                return known
            async with self._workspace.room() as folder:
                order = MeasureOrder(str(folder), recipe.to_json(), base, self._apart.num_threads)
                found = await self._apart.run(MEASURE_WORK, order.to_dict(), wall_s=self._settings.measure_timeout_s)
            measured = Measured(**found)
            self._speeds.note(name, measured)
            log.info("measured", model=base.spec["id"], **measured.to_dict())
            return measured

    def key(self, recipe: Recipe, base: BaseModel) -> str:
        """Under which figures are noted."""
        return key(recipe, base, num_threads=self._apart.num_threads)

    def of(self, plan: Plan, measured: Measured) -> TrainingEstimate:
        """Of the whole training, with the memory that is free now."""
        frames_s = plan.video_s * self._speeds.frames_s
        prepare_s = plan.num_pictures * self._speeds.prepare_s
        train_s = (
            measured.start_s
            + plan.num_pictures * measured.s_per_picture
            + plan.recipe.loop.steps * measured.s_per_step
            + measured.end_s
        )
        free_bytes = None if is_on_gpu(plan.base) else free_memory_bytes()
        return TrainingEstimate(frames_s + prepare_s + train_s, frames_s, measured.peak_bytes, free_bytes)


def check_memory(estimate: TrainingEstimate) -> None:
    """TrainingError where it would clearly not fit. A GPU is not asked: there, want of memory ends nobody else."""
    if estimate.free_bytes is not None and estimate.memory_bytes > estimate.free_bytes:
        raise TrainingError(
            "out_of_memory",
            f"It needs {estimate.memory_bytes / 1e9:.1f} GB of memory, and this machine has "
            f"{estimate.free_bytes / 1e9:.1f} GB left; a smaller resolution, batch or rank may fit.",
        )


def is_on_gpu(base: BaseModel) -> bool:
    """Whether it is trained on one, as far as can be told without loading what drives it."""
    is_there = os.environ.get("CUDA_VISIBLE_DEVICES") != "" and any(Path("/dev").glob("nvidia[0-9]*"))
    return base.device == "cuda" or (base.device == "auto" and is_there)


def free_memory_bytes() -> int:
    """What this machine, or the container that we are in, has left."""
    free_bytes = int(psutil.virtual_memory().available)
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        shares = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except OSError:
        return free_bytes  # no container, or one that does not tell
    if limit == "max":
        return free_bytes
    return min(free_bytes, int(limit) - int(used) + int(shares["inactive_file"]))  # files that are only kept for later
