"""Arm "ours": Darkroom's own training on the same job, without what only it does (pictures on the way, proofs)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from training_job import LEARNING_RATE, MAX_GRAD_NORM, RANK, Job, caption_of, load
from training_watch import Watch

from models.loader import DTYPES, LoadedModel
from training.adapter_file import write_adapter
from training.caching import SampleCache, build_cache
from training.checkpoints import CheckpointFile, Environment, Identity
from training.dataset import Picture
from training.file_notes import AdapterFacts, DataSummary
from training.learners import build_learner
from training.learners.adapted import AdaptedLearner
from training.learners.base import Batch, Draws
from training.recipe import Recipe, load_recipe
from training.trainer import Trainer


class Watched:
    """A learner that tells the watch of its steps, and keeps their losses where they are."""

    def __init__(self, learner: AdaptedLearner, watch: Watch) -> None:
        self._learner, self._watch = learner, watch
        self.seen: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - all else is the learner's own
        return getattr(self._learner, name)

    def losses(self, batch: Batch, draws: Draws) -> Tensor:
        self._watch.step()
        losses_B = self._learner.losses(batch, draws)
        self.seen.append(losses_B.detach().mean())
        return losses_B

    def plain_losses(self, batch: Batch, draws: Draws, *, with_adapter: bool = True) -> Tensor:
        if self.seen:
            self._watch.learned()
        return self._learner.plain_losses(batch, draws, with_adapter=with_adapter)


class Ours:
    """One training of ours, before its first step: the gate looks at what it would draw."""

    def __init__(self, job: Job, watch: Watch) -> None:
        self.job = job
        self.loaded: LoadedModel = load(job)
        self.recipe = recipe_for(job, self.loaded)
        learner = build_learner(
            self.loaded.pipeline,
            self.loaded.spec.family,
            self.recipe,
            device=self.loaded.device,
            dtype=DTYPES[job.dtype],
            seed=job.seed,
        )
        self.learner = Watched(learner, watch)
        pictures = [_picture(path, is_held_out=path == job.held_out) for path in (*job.learned, job.held_out)]
        self.cache: SampleCache = build_cache(learner, Path(job.data), pictures, self.recipe, tell=_ignored)

    def run(self, folder: Path) -> tuple[Path, list[float]]:
        """The file with the LoRA, and each step's loss."""
        job = self.job
        file = CheckpointFile(
            folder / "checkpoint.safetensors",
            Identity(self.recipe.sha256, "bench", self.loaded.weights_sha256),
            Environment.here(self.loaded.device),
        )
        trainer = Trainer(
            self.learner,
            self.cache,
            self.recipe,
            steps=job.steps,
            seed=job.seed,
            file=file,
            checkpoint_s=math.inf,
            tell=_ignored,
        )
        trainer.run()
        path = folder / "adapter.safetensors"
        write_adapter(path, self.loaded.pipeline, self.learner.state(), self.recipe, self._facts())
        return path, torch.stack(self.learner.seen).tolist()

    def _facts(self) -> AdapterFacts:
        side_px, count = self.job.side_px, len(self.job.learned)
        return AdapterFacts(
            name="bench",
            job_id="bench",
            trigger="sks thing",
            base_spec=self.loaded.spec,
            base_sha256=self.loaded.weights_sha256,
            created_at=0,
            steps=self.job.steps,
            seed=self.job.seed,
            data=DataSummary(count, 0, ((side_px, side_px, count),), tuple(map(caption_of, self.job.learned))),
        )


def train(job: Job, watch: Watch, folder: Path) -> tuple[Path, list[float]]:
    """The file with the LoRA, and each step's loss."""
    return Ours(job, watch).run(folder)


def recipe_for(job: Job, loaded: LoadedModel) -> Recipe:
    """What the scripts do by default, in a recipe: attention, AdamW, a constant rate, plain squared errors."""
    changes: Mapping[str, Any] = {
        "captions": {"drop_rate": 0.0},
        "pictures": {"resolution_px": job.side_px, "aspect_buckets": False, "bucket_step_px": 8},
        "lora": {"rank": RANK, "targets": ["attention"]},
        "optimizer": {
            "learning_rate": LEARNING_RATE,
            "max_grad_norm": MAX_GRAD_NORM,
            "schedule": "constant",
            "warmup_steps": 0,
        },
        "loss": {"snr_gamma": None},
        "loop": {"steps": job.steps, "batch_size": job.batch_size, "precision": job.dtype, "compile": job.compile},
        "validation": {"every_steps": job.steps, "num_draws": 1},
        "samples": {"every_steps": job.steps},
    }
    return load_recipe("subject", loaded.spec, dict(changes))


def _picture(path: Path, *, is_held_out: bool) -> Picture:
    with Image.open(path) as image:
        width_px, height_px = image.size
    return Picture(
        file=f"images/{path.name}",
        sha256="",
        width_px=width_px,
        height_px=height_px,
        caption=caption_of(path),
        is_held_out=is_held_out,
        upload_id="bench",
        upload_sha256="",
        kind="image",
    )


def _ignored(news: Mapping[str, Any] | Sequence[Any]) -> None:
    """Nobody listens here."""
