"""What the class looks like without the subject: pictures that the base model makes, so that it is not unlearned.

Ruiz and others, "DreamBooth", arXiv 2208.12242, section 3.3.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from models.spec import ModelSpec
from training.randomness import generator
from training.recipe import Recipe
from training.sampling import NUM_SEEDS, batches, make_pictures, save_png, without_adapter


def make_prior(
    pipeline: Any,  # noqa: ANN401 - diffusers is untyped
    recipe: Recipe,
    folder: Path,
    *,
    seed: int,
    spec: ModelSpec,
    tell: Callable[[int, int], None],
) -> list[Path]:
    """The recipe's num_prior pictures of its prior_prompt; none where it has no such prompt. `tell`: done, of.

    What is in the folder already stays; the rest is made in the company it would have had, and so is the same.
    """
    part = recipe.loss
    count = part.num_prior if part.prior_prompt else 0
    paths = [folder / f"{index:04}.png" for index in range(count)]
    wishes = [(part.prior_prompt, _seed(seed, index)) for index in range(count)]
    side_px = _side_px(recipe, spec)
    num_done = 0
    with without_adapter(pipeline):
        for batch in batches(wishes, side_px, side_px):
            missing = {i: path for i, path in enumerate(paths[num_done : num_done + len(batch)]) if not path.exists()}
            if missing:
                pictures = make_pictures(pipeline, spec, batch, width_px=side_px, height_px=side_px)
                for i, path in missing.items():
                    save_png(pictures[i], path)
            num_done += len(batch)
            tell(num_done, count)
    return paths


def _side_px(recipe: Recipe, spec: ModelSpec) -> int:
    """As large as what is learned from, in the model's own multiples."""
    wanted_px = recipe.pictures.resolution_px or min(spec.defaults.width_px, spec.defaults.height_px)
    return wanted_px - wanted_px % spec.limits.side_multiple_px


def _seed(seed: int, index: int) -> int:
    return int(torch.randint(NUM_SEEDS - 1, (), generator=generator(seed, "prior", index)))
