"""The base model in place with the LoRA on it, and this process set up so that the same work gives the same bits."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.folder import check_family, check_folder
from models.loader import load_pipeline, pick_device
from models.spec import ModelSpec
from training.learners import build_learner
from training.learners.adapted import AdaptedLearner
from training.orders import BaseModel
from training.recipe import LoopPart, Recipe

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Ready:
    """A model that can learn, and make pictures with what it has learned."""

    spec: ModelSpec
    pipeline: Any  # a diffusers pipeline, on the learner's device
    learner: AdaptedLearner


def load_ready(base: BaseModel, recipe: Recipe, *, seed: int, num_threads: int) -> Ready:
    """ModelError or RecipeError where the model, or the recipe for it, cannot be used."""
    spec = ModelSpec.model_validate(base.spec)
    device = pick_device(base.device)
    _settle(device, num_threads)
    folder = Path(base.folder)
    check_family(check_folder(folder), spec.family, where=base.folder)
    dtype = _precision(recipe.loop, device)
    pipeline = load_pipeline(spec, folder, dtype)
    learner = build_learner(pipeline, spec.family, recipe, device=device, dtype=dtype, seed=seed)
    return Ready(spec, pipeline, learner)


def peak_bytes(device: torch.device) -> int:
    """The most memory that was in use: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _settle(device: torch.device, num_threads: int) -> None:
    # How work is split among threads decides how sums are rounded.
    torch.set_num_threads(num_threads or len(os.sched_getaffinity(0)))
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # a search for bugs
    # Not everything that a model does on a GPU can be had exact; what is promised to the bit is the CPU.
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; without it, sums vary


def _precision(loop: LoopPart, device: torch.device) -> torch.dtype:
    if loop.precision != "auto":
        return PRECISIONS[loop.precision]
    return torch.bfloat16 if device.type == "cuda" else torch.float32
