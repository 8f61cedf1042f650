"""Recipe to embedded model, stage by stage: fetch, select, autoencoder, latents, denoiser, export. Each stage resumes."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL

from training.pretrain.autoencoder import train_autoencoder
from training.pretrain.fetch import fetch_packages
from training.pretrain.pictures import Cutouts, load_cutouts
from training.pretrain.recipe import PretrainRecipe
from training.pretrain.subjects import Subject, choose_subjects


def prepare_subjects(recipe: PretrainRecipe, cache: Path) -> list[Subject]:
    """Fetch the data where it is missing and choose the subjects."""
    pictures, labels = fetch_packages(recipe.data, cache)
    return choose_subjects(recipe.data, pictures, labels)


def load_banks(recipe: PretrainRecipe, subjects: list[Subject]) -> list[Cutouts]:
    """The subjects at their usual size and at the small one."""
    shares = (recipe.pictures.canonical_share, recipe.pictures.small_share)
    return [load_cutouts(subjects, round(recipe.resolution_px * share)) for share in shares]


def prepare_autoencoder(recipe: PretrainRecipe, banks: list[Cutouts], cache: Path, device: torch.device) -> AutoencoderKL:
    return train_autoencoder(recipe, banks, cache, device)
