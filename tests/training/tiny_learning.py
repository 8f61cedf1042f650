"""Learners on tiny random models, batches of noise for them, and pictures to learn from."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from models.loader import PIPELINES
from models.spec import Family
from tests.models.tiny import make_tiny_flux, make_tiny_sd, make_tiny_sdxl
from training.dataset import Picture
from training.learners import build_learner
from training.learners.adapted import AdaptedLearner
from training.learners.base import Batch, Draws, LatentStats
from training.recipe import Recipe

MAKERS = {"sd": make_tiny_sd, "sdxl": make_tiny_sdxl, "flux": make_tiny_flux}
SIDE = 8  # of latents
TEXTS = ("red car", "")


def tiny_recipe(**parts: dict[str, Any]) -> Recipe:
    """Rank 4, alpha 8, 64 pixels, unweighted; what `parts` say counts, part by part."""
    tree: dict[str, Any] = {
        "lora": {"rank": 4, "alpha": 8.0},
        "pictures": {"resolution_px": 64, "bucket_step_px": 16},
        "loss": {"snr_gamma": None},
    }
    for name, part in parts.items():
        tree[name] = tree.get(name, {}) | part
    return Recipe.model_validate({"title": "Tiny", **tree})


def load_plain(folder: Path, family: Family, **scheduler: Any) -> Any:
    """The pipeline; `scheduler` changes its scheduler's config."""
    pipeline = PIPELINES[family].from_pretrained(str(folder))
    pipeline.set_progress_bar_config(disable=True)
    if scheduler:
        pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **scheduler)
    return pipeline


def tiny_learner(
    folder: Path, family: Family, recipe: Recipe | None = None, *, seed: int = 0, **scheduler: Any
) -> AdaptedLearner:
    pipeline = load_plain(folder, family, **scheduler)
    device, dtype = torch.device("cpu"), torch.float32
    return build_learner(pipeline, family, recipe or tiny_recipe(), device=device, dtype=dtype, seed=seed)


def make_batch(learner: AdaptedLearner, texts: Sequence[str] = TEXTS, *, seed: int = 0) -> tuple[Batch, Draws]:
    """One sample for each text, and the chance of one step."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(texts), learner.latent_channels, SIDE, SIDE)

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=generator).to(learner.device)

    row = learner.shape_of((128, 96), (8, 4), (64, 64))
    batch = Batch(
        latents=LatentStats(normal(*shape), normal(*shape).abs() / 10),
        texts=learner.cache_texts(texts),
        shape={name: tensor.repeat(len(texts), 1) for name, tensor in row.items()},
        weight_B=torch.ones(len(texts), device=learner.device),
    )
    timestep_B = torch.rand(len(texts), generator=generator).to(learner.device)
    return batch, Draws(normal(*shape), normal(*shape), timestep_B, normal(*shape[:2], 1, 1))


def shake(learner: AdaptedLearner, *, seed: int = 1, strength: float = 0.2) -> None:
    """Move every trained number, as some steps would have."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in learner.trainable().values():
            change = torch.randn(parameter.shape, generator=generator) * strength
            parameter.add_(change.to(learner.device))


def save_adapter(learner: AdaptedLearner, path: Path) -> Path:
    """As diffusers would write it, its own header included."""
    header = {}
    for component, config in learner.configs.items():
        for key, value in config.to_dict().items():
            header[f"{component}.{key}"] = sorted(value) if isinstance(value, set) else value
    save_file(learner.state(), path, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(header)})
    return path


def make_pictures(folder: Path, sizes: Sequence[tuple[int, int]], *, num_held_out: int = 0) -> list[Picture]:
    """Files of noise in waves, and what a dataset would say of them; the last ones are held out."""
    (folder / "images").mkdir(parents=True)
    pictures = []
    for index, (width_px, height_px) in enumerate(sizes):
        x, y = np.meshgrid(np.linspace(0, 6, width_px), np.linspace(0, 6, height_px))
        waves = np.stack([np.sin(x + index), np.cos(y - index), np.sin(x * y / 3)], axis=-1)
        file = f"images/{index:04}.png"
        Image.fromarray(((waves + 1) * 127).astype(np.uint8)).save(folder / file)
        pictures.append(
            Picture(
                file=file,
                sha256="0" * 64,
                width_px=width_px,
                height_px=height_px,
                caption=f"red car {index % 2}",
                is_held_out=index >= len(sizes) - num_held_out,
                upload_id="upload",
                upload_sha256="0" * 64,
                kind="image",
            )
        )
    return pictures
