"""Recipe: how a LoRA is trained, typed. Read from configs/training/<name>.yaml; loads nothing heavy.

A recipe's file may say under `families` and `models` what is different for one of them.
"""

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import Field, ValidationError

from configs.settings import CONFIG_DIR, Frozen, SettingsError, read_yaml
from models.spec import Family, ModelSpec
from pipelines.request import CaptionMode, FacePreference

FOLDER = CONFIG_DIR / "training"
TRAINABLE: tuple[Family, ...] = ("sd", "sdxl", "flux")

FilterName = Literal["too_small", "blurry", "dark", "bright", "duplicate", "nsfw", "no_face"]
Target = Literal["attention", "feed_forward", "convolutions"]


class RecipeError(ValueError):
    """There is no such recipe, or it cannot be used; the message says why."""


class FramesPart(Frozen):
    """Which stills are asked of each video."""

    max_per_video: int = Field(40, ge=1)
    enough: int = Field(
        12, ge=1, description="Where a video gives fewer, stills closer in time and near duplicates are let in too."
    )
    close_s: float = Field(0.2, gt=0, description="How close, then.")
    faces: FacePreference = "prefer"


class FilterPart(Frozen):
    """Which stills and pictures are not learned from, over all uploads together; applied in this order."""

    use: tuple[FilterName, ...] = ("nsfw", "too_small", "dark", "bright", "blurry", "duplicate")
    min_sharpness_share: float = Field(0.1, ge=0, le=1, description="Of the median sharpness of all.")
    min_brightness: float = Field(10.0, ge=0, le=255)
    max_brightness: float = Field(245.0, ge=0, le=255)
    max_similarity: float = Field(0.999, ge=0, le=1, description="Cosine of descriptors; above it a duplicate.")
    min_pictures: int = Field(3, ge=2, description="Fewer are not trained on.")


class CaptionPart(Frozen):
    """What is said of each picture."""

    mode: CaptionMode = "template"
    template: str = Field("{trigger}", description="{trigger} is replaced.")
    drop_rate: float = Field(0.1, ge=0, lt=1, description="Share of the samples learned without words, for guidance.")


class PicturePart(Frozen):
    """How pictures are cut and sized. The area of a bucket is at most resolution squared."""

    resolution_px: int | None = Field(None, ge=64, description="None: the model's own default.")
    aspect_buckets: bool = Field(True, description="Keep each picture's shape, nearly.")
    square_too: bool = Field(True, description="And a square out of it, since most requests are square.")
    bucket_step_px: int = Field(64, ge=8)
    mirror: bool = Field(False, description="Mirrored too; not for anybody with a parting or a text.")


class LoraPart(Frozen):
    rank: int = Field(16, ge=1, le=1_024)
    alpha: float | None = Field(None, gt=0, description="None: the rank, a scale of one.")
    targets: tuple[Target, ...] = Field(("attention",), min_length=1)
    text_encoder: bool = Field(False, description="Its attention too; then texts are encoded in every step.")
    dora: bool = Field(False, description="Of the denoiser; a text encoder, if trained, has a plain LoRA.")
    dropout: float = Field(0.0, ge=0, lt=1)


class OptimizerPart(Frozen):
    name: Literal["adamw", "adamw8bit", "prodigy"] = "adamw"
    learning_rate: float = Field(1e-4, gt=0)
    text_encoder_learning_rate: float | None = Field(None, gt=0, description="None: as the others.")
    weight_decay: float = Field(1e-2, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, gt=0)
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    warmup_steps: int = Field(20, ge=0)


class LossPart(Frozen):
    snr_gamma: float | None = Field(5.0, gt=0, description="Min-SNR; for noise-predicting models alone.")
    noise_offset: float = Field(0.0, ge=0)
    timesteps: Literal["uniform", "logit_normal"] = "uniform"
    guidance: float = Field(1.0, ge=0, description="What guidance-distilled models are told in training.")
    prior_prompt: str = Field("", description="What the class looks like without the subject; empty: no prior.")
    num_prior: int = Field(0, ge=0, description="Pictures of it that the base model makes.")
    prior_weight: float = Field(1.0, ge=0)


class LoopPart(Frozen):
    steps: int = Field(1_000, ge=1)
    batch_size: int = Field(4, ge=1, le=64)
    accumulate: int = Field(1, ge=1, le=64)
    ema_decay: float | None = Field(None, gt=0, lt=1)
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on a GPU.")
    gradient_checkpointing: bool = False
    compile: bool = Field(False, description="Compile the denoiser's repeated blocks; on a GPU only.")
    record: bool = Field(False, description="Record a step and play it again (CUDA graphs); on a GPU only.")


class ValidationPart(Frozen):
    held_out_share: float = Field(0.2, gt=0, lt=1)
    max_held_out: int = Field(8, ge=1)
    every_steps: int = Field(100, ge=1)
    num_draws: int = Field(8, ge=1, description="Noises and timesteps for each held-out picture, always the same.")
    patience: int = Field(4, ge=1, description="It stops when the loss was no better this often in a row.")


class SamplePart(Frozen):
    prompts: tuple[str, ...] = Field(("{trigger}",), min_length=1)
    num_shown: int = Field(4, ge=1, le=16, description="Pictures kept of before and of after, each.")
    num_compared: int = Field(8, ge=1, le=64, description="Seeds whose pictures are compared with held-out frames.")
    every_steps: int = Field(200, ge=1, description="How often one is shown on the way.")


class Recipe(Frozen):
    """One way to train, with nothing left open."""

    title: str
    frames: FramesPart = FramesPart()
    filters: FilterPart = FilterPart()
    captions: CaptionPart = CaptionPart()
    pictures: PicturePart = PicturePart()
    lora: LoraPart = LoraPart()
    optimizer: OptimizerPart = OptimizerPart()
    loss: LossPart = LossPart()
    loop: LoopPart = LoopPart()
    validation: ValidationPart = ValidationPart()
    samples: SamplePart = SamplePart()

    @property
    def alpha(self) -> float:
        return float(self.lora.rank) if self.lora.alpha is None else self.lora.alpha

    @property
    def sha256(self) -> str:
        """Of all its values: two recipes with the same one train the same."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical: the same values are the same text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Inverse of to_json(); RecipeError where this version does not understand it."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise RecipeError(f"The recipe cannot be used by this version: {_first(error)}") from error


def recipe_names() -> list[str]:
    """All there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith("pretrain-"))


def load_recipe(name: str, spec: ModelSpec, changes: dict[str, Any] | None = None) -> Recipe:
    """The recipe for a model, with `changes` (nested, as in the file) over it. RecipeError says what is wrong."""
    if name not in recipe_names():
        raise RecipeError(f"There is no recipe {name[:80]!r}; there are: {', '.join(recipe_names())}.")
    if spec.family not in TRAINABLE:
        raise RecipeError(f"{spec.id} cannot be trained: LoRAs are trained for {', '.join(TRAINABLE)}.")
    try:
        tree = read_yaml(FOLDER / f"{name}.yaml")
        families, models = tree.pop("families", {}), tree.pop("models", {})
        for part in (families.get(spec.family, {}), models.get(spec.id, {}), changes or {}):
            tree = _merged(tree, part)
        recipe = Recipe.model_validate(tree)
    except SettingsError as error:
        raise RecipeError(str(error)) from error
    except ValidationError as error:
        raise RecipeError(f"The recipe {name} cannot be used: {_first(error)}") from error
    if recipe.pictures.resolution_px is None:
        side_px = min(spec.defaults.width_px, spec.defaults.height_px)
        recipe = recipe.model_copy(update={"pictures": recipe.pictures.model_copy(update={"resolution_px": side_px})})
    return recipe


def _merged(tree: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """A new mapping; what `over` says counts, part by part."""
    merged = dict(tree)
    for key, value in over.items():
        known = merged.get(key)
        merged[key] = _merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'recipe'}: {problem['msg']}"
