"""Before and after: pictures by the base model and by the adapter from the same seeds, and how near frames each is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from models.spec import ModelSpec
from training.nearness import mean_distance
from training.recipe import Recipe
from training.sampling import Shown, Wish, keep_picture, make_pictures, sample_wishes, without_adapter


@dataclass(frozen=True, slots=True)
class Comparison:
    """What an adapter changes, on frames that it was not trained on."""

    distance_before: float
    distance_after: float
    before: tuple[Shown, ...]
    after: tuple[Shown, ...]
    wishes: tuple[Wish, ...]
    pictures: tuple[Image.Image, ...]  # one for each wish, with the adapter: what its file must give again


def compare(
    pipeline: Any,  # noqa: ANN401 - diffusers is untyped
    spec: ModelSpec,
    recipe: Recipe,
    held_out: Sequence[Image.Image],
    *,
    trigger: str,
    seed: int,
    step: int,
    folder: Path,
    subfolder: str = "samples",
) -> Comparison:
    """Pictures of the size that a silent request gets; the first num_shown of each kind are kept below `folder`.

    `step`: how far the weights had come that are in the pipeline now.
    """
    part = recipe.samples
    wishes = sample_wishes(recipe, trigger, seed, max(part.num_compared, part.num_shown))
    size = {"width_px": spec.defaults.width_px, "height_px": spec.defaults.height_px}
    with without_adapter(pipeline):
        before = make_pictures(pipeline, spec, wishes, **size)
    after = make_pictures(pipeline, spec, wishes, **size)

    def keep(pictures: Sequence[Image.Image], kind: str, made_at: int) -> tuple[Shown, ...]:
        return tuple(
            keep_picture(picture, folder, f"{subfolder}/{kind}-{index:02}.png", wish, made_at)
            for index, (picture, wish) in enumerate(zip(pictures[: part.num_shown], wishes, strict=False))
        )

    return Comparison(
        distance_before=mean_distance(before[: part.num_compared], held_out),
        distance_after=mean_distance(after[: part.num_compared], held_out),
        before=keep(before, "before", 0),
        after=keep(after, "after", step),
        wishes=tuple(wishes),
        pictures=tuple(after),
    )
