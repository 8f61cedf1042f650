"""Writes the finished model as a diffusers folder: sixteen-bit safetensors, a machine-readable note, a model card."""

import json
import os
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from training.pretrain.card import write_card
from training.pretrain.denoiser import Denoiser
from training.pretrain.recipe import PretrainRecipe
from training.pretrain.subjects import Subject

MAX_FOLDER_BYTES = 40_000_000
NOTE = "training.json"


def export_model(
    recipe: PretrainRecipe, subjects: list[Subject], vae: AutoencoderKL, denoiser: Denoiser, target: Path, *, step: int
) -> Path:
    """Build the folder beside the target, then swap: readers never see half a model."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipeline = StableDiffusionPipeline(
        vae=vae.cpu().eval(),
        text_encoder=denoiser.text_encoder.cpu().eval(),
        tokenizer=denoiser.tokenizer,
        unet=denoiser.unet.cpu().eval(),
        scheduler=denoiser.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(partial, safe_serialization=True)
    denoiser.tokenizer.backend_tokenizer.model.save(str(partial / "tokenizer"))
    for weights in partial.rglob("*.safetensors"):
        _halve(weights)
    (partial / NOTE).write_text(_note(recipe, subjects, step), encoding="utf-8")
    write_card(recipe, subjects, partial / "MODEL_CARD.md", step=step)
    total_bytes = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    if total_bytes > MAX_FOLDER_BYTES:
        raise ValueError(f"The model takes {total_bytes} bytes, {MAX_FOLDER_BYTES} are allowed.")
    _swap(partial, target)
    return target


def _halve(weights: Path) -> None:
    # Stored in half the bytes; the configurations still say float32, so loading computes in full precision.
    tensors = {name: tensor.to(torch.float16).contiguous() for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})


def _note(recipe: PretrainRecipe, subjects: list[Subject], step: int) -> str:
    body = {
        "recipe": recipe.model_dump(mode="json"),
        "denoiser_steps": step,
        "subjects": [{"label": subject.label, "picture": subject.picture.name} for subject in subjects],
    }
    return json.dumps(body, indent=1, ensure_ascii=False) + "\n"


def _swap(partial: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)
