"""A LoRA as a caller wants it trained, with every open choice resolved. Pure but for the recipe that it reads."""

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from configs.settings import TrainingSettings
from models.catalog import get_model
from models.errors import UnknownModel
from models.spec import ModelSpec
from pipelines.request import CaptionMode, TrainingRequest, TrainingSource
from serving.errors import BadInput, NotFound
from serving.jobs.wish import MAX_SEED, RANDOM_SEED_BITS, Wish, check_extras, check_text, whole
from training.recipe import TRAINABLE, Recipe, RecipeError, load_recipe

MAX_TRIGGER_CHARS = 200
MAX_CAPTION_CHARS = 1_000
MAX_CAPTIONS = 5_000


@dataclass(frozen=True, slots=True)
class TrainingWish(Wish):
    """What is to be learned, as the caller put it; None leaves the choice to us, the recipe or the model."""

    name: str
    upload_ids: tuple[str, ...] = ()
    base_model: str | None = None
    trigger: str | None = None
    caption: CaptionMode | None = None
    recipe: str | None = None
    steps: int | None = None
    rank: int | None = None
    resolution: int | None = None
    seed: int | None = None
    from_job: str | None = None  # train again on the dataset of this job, instead of on uploads
    captions: Mapping[str, str] = field(default_factory=dict)  # picture of it, such as "0003.png" → what is said


@dataclass(frozen=True, slots=True)
class EarlierDataset:
    """The pictures of an earlier training, and what a wish that goes on from them inherits."""

    prefix: str  # of its keys
    files: frozenset[str]  # names of its pictures
    base_model: str
    trigger: str


def trainable_models(
    served: Mapping[str, ModelSpec], catalog: Mapping[str, ModelSpec], settings: TrainingSettings
) -> dict[str, ModelSpec]:
    """What LoRAs can be trained for: what we serve and can train, and what a provider trains for us."""
    ours = {spec.id: spec for spec in served.values() if spec.kind == "image" and spec.family in TRAINABLE}
    if settings.fal.key is None:
        return ours
    return ours | {model_id: get_model(catalog, model_id) for model_id in settings.fal.models}


def choose_base(wanted: str, trainable: Mapping[str, ModelSpec], served: Mapping[str, ModelSpec]) -> ModelSpec:
    """The model that is trained for. NotFound for one that there is not, BadInput for one that cannot be trained."""
    if wanted in trainable:
        return trainable[wanted]
    if wanted not in served:
        raise NotFound(str(UnknownModel(wanted, list(trainable))), param="base_model", code="model_not_found")
    choices = ", ".join(trainable) or "none of those that are served"
    raise BadInput(f"{wanted} cannot be trained for; what can: {choices}.", param="base_model")


def check_sources(wish: TrainingWish, *, max_uploads: int) -> None:
    """Refuses a wish that does not say what to learn from, or says it twice."""
    if wish.from_job is not None:
        if wish.upload_ids:
            raise BadInput("from_job takes the place of upload_ids; give one of the two.", param="from_job")
        return
    if wish.captions:
        raise BadInput("captions are for a dataset that is there already: give from_job with them.", param="captions")
    if not 1 <= len(wish.upload_ids) <= max_uploads:
        given = len(wish.upload_ids)
        raise BadInput(f"upload_ids must name 1 to {max_uploads} uploads; there are {given}.", param="upload_ids")
    if len(set(wish.upload_ids)) < len(wish.upload_ids):
        raise BadInput("upload_ids names an upload twice.", param="upload_ids")


def resolve_training(
    wish: TrainingWish,
    spec: ModelSpec,
    settings: TrainingSettings,
    *,
    sources: Sequence[TrainingSource] = (),
    earlier: EarlierDataset | None = None,
) -> TrainingRequest:
    """A request with nothing left open, or BadInput naming the field and what it may be.

    `sources` are the uploads that the wish names, `earlier` the dataset of the job that it goes on from.
    """
    check_extras(wish)
    inherited = wish.name if earlier is None else earlier.trigger
    trigger = inherited if wish.trigger is None else wish.trigger
    check_text("trigger", trigger, max_chars=MAX_TRIGGER_CHARS)
    if not trigger.strip():
        raise BadInput("trigger must not be empty.", param="trigger")
    _check_captions(wish.captions, frozenset() if earlier is None else earlier.files)
    seed = secrets.randbits(RANDOM_SEED_BITS) if wish.seed is None else wish.seed
    name, recipe = wish.recipe or settings.recipe, _recipe(wish, spec, settings)
    if recipe.captions.mode == "model" and settings.captioner is None:
        raise BadInput("This server has no captioner; caption may be 'template' or 'none'.", param="caption")
    assert recipe.pictures.resolution_px is not None, "load_recipe() leaves nothing open"
    return TrainingRequest(
        name=wish.name,
        base_model=spec.id,
        trigger=trigger,
        caption=recipe.captions.mode,
        recipe=name,
        recipe_json=recipe.to_json(),
        steps=recipe.loop.steps,
        rank=recipe.lora.rank,
        resolution_px=recipe.pictures.resolution_px,
        seed=whole("seed", seed, 0, MAX_SEED),
        sources=tuple(sources),
        dataset=None if earlier is None else earlier.prefix,
        captions=tuple(sorted(wish.captions.items())),
    )


def _recipe(wish: TrainingWish, spec: ModelSpec, settings: TrainingSettings) -> Recipe:
    """The recipe as this wish changes it; what it leaves open stays below the server's own limits."""
    name, changes = wish.recipe or settings.recipe, dict[str, dict[str, Any]]()
    if wish.steps is not None:
        changes["loop"] = {"steps": whole("steps", wish.steps, 1, settings.max_steps)}
    if wish.rank is not None:
        changes["lora"] = {"rank": whole("rank", wish.rank, 1, settings.max_rank)}
    if wish.resolution is not None:
        changes["pictures"] = {"resolution_px": _resolution(wish.resolution, spec)}
    if wish.caption is not None:
        changes["captions"] = {"mode": wish.caption}
    try:
        recipe = load_recipe(name, spec, changes)
        too_much: dict[str, dict[str, Any]] = {}
        if recipe.loop.steps > settings.max_steps:
            too_much["loop"] = {"steps": settings.max_steps}
        if recipe.lora.rank > settings.max_rank:
            too_much["lora"] = {"rank": settings.max_rank}
        return load_recipe(name, spec, changes | too_much) if too_much else recipe
    except RecipeError as error:
        raise BadInput(str(error), param="recipe") from error


def _resolution(side_px: int, spec: ModelSpec) -> int:
    """A square of it must be a size that the model makes."""
    limits = spec.limits
    highest = min(limits.max_side_px, math.isqrt(limits.max_pixels))
    if not limits.min_side_px <= side_px <= highest or side_px % limits.side_multiple_px:
        raise BadInput(
            f"resolution must be from {limits.min_side_px} to {highest} px in multiples of {limits.side_multiple_px} "
            f"for {spec.id}; it is {side_px}.",
            param="resolution",
        )
    return side_px


def _check_captions(captions: Mapping[str, str], files: frozenset[str]) -> None:
    if len(captions) > MAX_CAPTIONS:
        raise BadInput(f"captions may hold {MAX_CAPTIONS} texts at most.", param="captions")
    for file, text in captions.items():
        if file not in files:
            raise BadInput(f"captions names {file[:100]!r}, which the dataset does not hold.", param="captions")
        check_text("captions", text, max_chars=MAX_CAPTION_CHARS)
