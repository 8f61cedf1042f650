"""What a published file says of itself in its header, in the words that other programs look for. Texts alone.

`ss_*`: kohya's sd-scripts, which AUTOMATIC1111, Forge, SD.Next and Civitai read; `modelspec.*`: Stability AI's Model
Metadata Standard 1.0; `darkroom.*`: where it is from. What diffusers itself reads is not written here.
"""

import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from models.spec import ModelSpec
from training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class DataSummary:
    """What was learned from."""

    num_pictures: int  # without those held out
    num_prior: int
    buckets: tuple[tuple[int, int, int], ...]  # width px, height px, how many
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What is told of an adapter beside its recipe. No times but the job's own, so that files can be compared."""

    name: str
    job_id: str
    trigger: str
    base_spec: ModelSpec
    base_sha256: str
    created_at: int  # Unix seconds of the job
    steps: int  # that the weights had been trained for
    seed: int
    data: DataSummary


@dataclass(frozen=True, slots=True)
class BaseKind:
    """What a model is called in kohya's words and in the Model Metadata Standard's."""

    kohya: str
    modelspec: str
    network_module: str = "networks.lora"
    is_v2: bool = False
    predicts: str | None = None


def base_kind(pipeline: Any, spec: ModelSpec) -> BaseKind:  # noqa: ANN401 - diffusers is untyped
    """As library/sai_model_spec.py and library/train_util.py of sd-scripts tell them apart."""
    if spec.family == "flux":
        variant = "dev" if pipeline.transformer.config.guidance_embeds else "schnell"
        return BaseKind("flux1", f"flux-1-{variant}", "networks.lora_flux")
    is_v = pipeline.scheduler.config.get("prediction_type") == "v_prediction"
    predicts = "v" if is_v else "epsilon"
    if spec.family == "sdxl":
        return BaseKind("sdxl_base_v1-0", "stable-diffusion-xl-v1-base", predicts=predicts)
    # Version 2 has the wider text encoder of OpenCLIP.
    if pipeline.unet.config.cross_attention_dim == 1024:
        name = "stable-diffusion-v2-768-v" if is_v else "stable-diffusion-v2-512"
        return BaseKind("sd_v2_v" if is_v else "sd_v2", name, is_v2=True, predicts=predicts)
    return BaseKind("sd_v1_v" if is_v else "sd_v1", "stable-diffusion-v1", predicts=predicts)


def file_notes(kind: BaseKind, recipe: Recipe, facts: AdapterFacts, *, tensors_sha256: str) -> dict[str, str]:
    """All of them, by key. What is not known is left out."""
    notes = {
        **{f"ss_{key}": value for key, value in (_training(kind, recipe, facts) | _data(recipe, facts)).items()},
        **{f"modelspec.{key}": value for key, value in _modelspec(kind, recipe, facts, tensors_sha256).items()},
        # Of all bytes behind the header: how AUTOMATIC1111 tells a file that was renamed.
        "sshs_model_hash": tensors_sha256,
        "darkroom.job_id": facts.job_id,
        "darkroom.base_model": facts.base_spec.id,
        "darkroom.base_sha256": facts.base_sha256,
        "darkroom.recipe": recipe.to_json(),
        "darkroom.recipe_sha256": recipe.sha256,
    }
    return {key: _text(value) for key, value in sorted(notes.items()) if value is not None}


def _training(kind: BaseKind, recipe: Recipe, facts: AdapterFacts) -> dict[str, object]:
    lora, optimizer, loop, loss = recipe.lora, recipe.optimizer, recipe.loop, recipe.loss
    convolutions = {"conv_dim": lora.rank, "conv_alpha": recipe.alpha} if "convolutions" in lora.targets else {}
    encoder_rate = optimizer.text_encoder_learning_rate or optimizer.learning_rate
    return {
        "v2": kind.is_v2,
        "base_model_version": kind.kohya,
        "sd_model_name": facts.base_spec.id,
        "network_module": kind.network_module,
        "network_dim": lora.rank,
        "network_alpha": recipe.alpha,
        "network_dropout": lora.dropout or None,
        "network_args": {**convolutions, **({"dora_wd": True} if lora.dora else {})},
        "output_name": facts.name,
        "training_started_at": facts.created_at,
        "seed": facts.seed,
        "steps": facts.steps,
        "max_train_steps": loop.steps,
        "learning_rate": optimizer.learning_rate,
        "unet_lr": optimizer.learning_rate,
        "text_encoder_lr": encoder_rate if lora.text_encoder else None,
        "optimizer": optimizer.name,
        "lr_scheduler": optimizer.schedule,
        "lr_warmup_steps": optimizer.warmup_steps,
        "max_grad_norm": optimizer.max_grad_norm,
        "gradient_accumulation_steps": loop.accumulate,
        "gradient_checkpointing": loop.gradient_checkpointing,
        "min_snr_gamma": loss.snr_gamma,
        "noise_offset": loss.noise_offset or None,
        "prior_loss_weight": loss.prior_weight,
    }


def _data(recipe: Recipe, facts: AdapterFacts) -> dict[str, object]:
    side_px, folder = recipe.pictures.resolution_px, f"1_{facts.name}"
    tags = Counter(tag.strip() for caption in facts.data.captions for tag in caption.split(",") if tag.strip())
    buckets = [{"resolution": [width, height], "count": count} for width, height, count in facts.data.buckets]
    return {
        "num_train_images": facts.data.num_pictures,
        "num_reg_images": facts.data.num_prior,
        "total_batch_size": recipe.loop.batch_size,
        "resolution": f"({side_px}, {side_px})",
        "enable_bucket": recipe.pictures.aspect_buckets,
        "bucket_info": {"buckets": {str(index): bucket for index, bucket in enumerate(buckets)}},
        "tag_frequency": {folder: dict(sorted(tags.items()))},
        "dataset_dirs": {folder: {"n_repeats": 1, "img_count": facts.data.num_pictures}},
        "caption_dropout_rate": recipe.captions.drop_rate,
        "flip_aug": recipe.pictures.mirror,
        "cache_latents": True,
    }


def _modelspec(kind: BaseKind, recipe: Recipe, facts: AdapterFacts, tensors_sha256: str) -> dict[str, object]:
    side_px = recipe.pictures.resolution_px
    return {
        "sai_model_spec": "1.0.0",
        "architecture": f"{kind.modelspec}/lora",
        "implementation": "diffusers",
        "title": facts.name,
        "description": f"{recipe.title}, learned from {facts.data.num_pictures} pictures on {facts.base_spec.title}.",
        "author": "Darkroom",
        "date": datetime.fromtimestamp(facts.created_at, UTC).isoformat(),
        "license": facts.base_spec.license,  # what is made from a model is bound by it
        "resolution": f"{side_px}x{side_px}",
        "trigger_phrase": facts.trigger,
        "prediction_type": kind.predicts,
        "hash_sha256": f"0x{tensors_sha256}",
    }


def _text(value: object) -> str:
    """As sd-scripts writes it: mappings as JSON, all else as Python prints it."""
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else str(value)
