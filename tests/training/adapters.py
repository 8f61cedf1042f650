"""Tiny models with a LoRA on them that has learned something random, as a training leaves them."""

from pathlib import Path
from typing import Any

import torch

from models.spec import Family
from tests.models.tiny import tiny_spec
from tests.training.tiny_learning import load_plain, shake, tiny_recipe
from training.adapter_file import write_adapter
from training.file_notes import AdapterFacts, DataSummary
from training.learners import build_learner
from training.learners.adapted import AdaptedLearner
from training.sampling import Wish, make_pictures

SIZE = {"width_px": 64, "height_px": 64}
WISHES: list[Wish] = [("a red cat", 1), ("red", 2)]


def learned(folder: Path, family: Family, *, dtype: torch.dtype = torch.float32, **lora: Any) -> AdaptedLearner:
    """A learner whose LoRA, of rank 4 and alpha 10, changes its pictures; `lora` says what else the recipe does."""
    recipe = tiny_recipe(lora={"alpha": 10.0, **lora})
    pipeline = load_plain(folder, family)
    learner = build_learner(pipeline, family, recipe, device=torch.device("cpu"), dtype=dtype, seed=0)
    shake(learner)
    return learner


def facts_of(family: Family) -> AdapterFacts:
    data = DataSummary(
        num_pictures=3, num_prior=2, buckets=((64, 32, 1), (32, 32, 2)), captions=("sks person, red", "sks person")
    )
    return AdapterFacts(
        name="signer",
        job_id="job_1",
        trigger="sks person",
        base_spec=tiny_spec(family),
        base_sha256="ab" * 32,
        created_at=1_800_000_000,
        steps=120,
        seed=7,
        data=data,
    )


def written(learner: AdaptedLearner, family: Family, path: Path) -> Path:
    write_adapter(path, learner.pipeline, learner.state(), learner.recipe, facts_of(family))
    return path


def pictures_of(learner: AdaptedLearner, family: Family) -> list[Any]:
    return make_pictures(learner.pipeline, tiny_spec(family), WISHES, **SIZE)
