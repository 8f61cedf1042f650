"""What a model family learns with: one learner for each family that can be trained.

To add one: a file with a subclass of AdaptedLearner, its layers in training/targets.py, and a line here.
"""

from collections.abc import Mapping
from typing import Any

import torch

from models.spec import Family
from training.learners.adapted import AdaptedLearner
from training.learners.flux import FluxLearner
from training.learners.sd import StableDiffusionLearner
from training.learners.sdxl import StableDiffusionXLLearner
from training.recipe import Recipe, RecipeError

LEARNERS: Mapping[Family, type[AdaptedLearner]] = {
    "sd": StableDiffusionLearner,
    "sdxl": StableDiffusionXLLearner,
    "flux": FluxLearner,
}


def build_learner(
    pipeline: Any,  # noqa: ANN401 - diffusers is untyped
    family: Family,
    recipe: Recipe,
    *,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
) -> AdaptedLearner:
    """The pipeline on its device, frozen, with the LoRA that is trained; RecipeError where the recipe does not fit."""
    if family not in LEARNERS:
        raise RecipeError(f"{family} models cannot be trained; those of {', '.join(LEARNERS)} can.")
    return LEARNERS[family](pipeline, family, recipe, device=device, dtype=dtype, seed=seed)
