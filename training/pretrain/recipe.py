"""The typed recipe of a pre-training run, read from YAML; unknown keys are refused."""

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator


class RecipeError(ValueError):
    """The recipe, or the data that it names, cannot be used."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataRecipe(_Part):
    """Where the pictures and their labels come from, and which of them become subjects."""

    pictures_package: str = "@lobehub/fluent-emoji-3d"
    pictures_version: str = "1.1.0"
    labels_package: str = "emojibase-data"
    labels_version: str = "17.0.0"
    subgroups: tuple[str, ...] = Field(description="every emoji of these emojibase subgroups is a subject")
    also: tuple[str, ...] = Field((), description="single labels from other subgroups")
    without: tuple[str, ...] = Field((), description="labels left out: near-duplicates, signs, text")
    fetch_timeout_s: float = Field(900.0, gt=0)


class PictureRecipe(_Part):
    """How a subject is set on a background."""

    canonical_share: float = Field(0.875, gt=0, le=1, description="subject size over picture size, usual placement")
    small_share: float = Field(0.5, gt=0, le=1)
    backgrounds: dict[str, tuple[int, int, int]] = Field(description="colour name to RGB; must hold 'white'")

    @model_validator(mode="after")
    def _has_white(self) -> "PictureRecipe":
        if "white" not in self.backgrounds:
            raise ValueError("backgrounds must hold 'white': captions that name no background mean it")
        return self


class AutoencoderRecipe(_Part):
    """Size and training of the AutoencoderKL (eight times smaller on each side)."""

    channels: tuple[int, int, int, int] = (32, 64, 96, 128)
    latent_channels: int = Field(4, gt=0)
    layers_per_block: int = Field(1, gt=0)
    norm_groups: int = Field(8, gt=0)
    budget_s: float = Field(gt=0, description="training time over all runs; the schedule stretches over it")
    crop_px: int = Field(64, gt=0)
    crops_per_step: int = Field(32, gt=0)
    full_pictures_from: float = Field(
        0.8, ge=0, le=1, description="share of the budget after which steps see whole pictures"
    )
    peak_lr: float = Field(1.5e-3, gt=0)
    kl_weight: float = Field(5e-5, ge=0)
    decoder_budget_s: float = Field(0.0, ge=0, description="more training of the decoder alone, latents fixed")
    decoder_lr: float = Field(4e-4, gt=0)


class LatentRecipe(_Part):
    """Which variants of each subject are encoded once and cached."""

    placed_per_subject: int = Field(6, ge=0, description="small, left, right: each on some background")
    pairs: int = Field(1200, ge=0, description="two subjects side by side")
    white_weight: float = Field(0.4, gt=0)
    colour_weight: float = Field(0.4, gt=0)
    placed_weight: float = Field(0.14, ge=0)
    pair_weight: float = Field(0.06, ge=0)


class TextRecipe(_Part):
    """Size of the CLIP text encoder and its tokenizer."""

    width: int = Field(192, gt=0)
    layers: int = Field(3, gt=0)
    heads: int = Field(4, gt=0)
    max_tokens: int = Field(32, gt=4)
    vocabulary: int = Field(4096, gt=600)


class DenoiserRecipe(_Part):
    """Size and training of the UNet, trained together with the text encoder."""

    channels: tuple[int, int, int] = (96, 160, 224)
    layers_per_block: int = Field(1, gt=0)
    heads: int = Field(4, gt=0)
    norm_groups: int = Field(32, gt=0)
    budget_s: float = Field(gt=0, description="training time over all runs")
    batch: int = Field(64, gt=0)
    peak_lr: float = Field(1e-3, gt=0)
    warmup_steps: int = Field(100, gt=0)
    cooldown_share: float = Field(0.15, ge=0, le=1, description="last part of the budget, over which the rate falls")
    noise_lean: float = Field(1.0, gt=0, description="below one, noisier timesteps are drawn more often")
    caption_dropout: float = Field(0.1, ge=0, lt=1)
    ema_decay: float = Field(0.999, gt=0, lt=1)
    beta_start: float = Field(1e-4, gt=0)
    beta_end: float = Field(2e-2, gt=0)
    beta_schedule: str = "linear"


class SamplingRecipe(_Part):
    """The defaults that the finished model is meant to be used, and measured, with."""

    steps: int = Field(20, gt=0)
    guidance: float = Field(4.0, ge=0)


class PretrainRecipe(_Part):
    """Everything that decides what comes out of a pre-training run."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    resolution_px: int = Field(128, gt=0, multiple_of=64)
    seed: int = 0
    threads: int = Field(2, gt=0)
    checkpoint_every_s: float = Field(60.0, gt=0)
    data: DataRecipe
    pictures: PictureRecipe
    autoencoder: AutoencoderRecipe
    latents: LatentRecipe = LatentRecipe()
    text: TextRecipe = TextRecipe()
    denoiser: DenoiserRecipe
    sampling: SamplingRecipe = SamplingRecipe()
    notes: tuple[str, ...] = Field((), description="what the model card should add about how these weights came about")


def read_recipe(path: Path) -> PretrainRecipe:
    """Parse a recipe file; raise RecipeError when it is not a mapping."""
    body = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(body, dict):
        raise RecipeError(f"{path} does not hold a mapping.")
    return PretrainRecipe.model_validate(body)
