"""Recipe to embedded model: fetch, select, autoencoder, latents, denoiser, decoder, export. Each stage resumes."""

import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from training.pretrain.autoencoder import load_autoencoder, train_autoencoder, trained_steps
from training.pretrain.decoder import load_decoder, train_decoder
from training.pretrain.denoiser import load_denoiser, train_denoiser
from training.pretrain.export import export_model
from training.pretrain.fetch import fetch_packages
from training.pretrain.latents import cache_latents, draw_scene, list_scenes, normalise_latents
from training.pretrain.pictures import Cutouts, load_cutouts
from training.pretrain.recipe import PretrainRecipe
from training.pretrain.subjects import Subject, choose_subjects

NORMALISE_PICTURES = 96


def pretrain(recipe: PretrainRecipe, cache: Path, target: Path, device: torch.device) -> Path:
    """Run every stage that is not finished yet; returns the model's folder."""
    subjects = prepare_subjects(recipe, cache)
    banks = load_banks(recipe, subjects)
    vae = ready_for_latents(recipe, banks, train_autoencoder(recipe, banks, cache, device))
    bank = cache_latents(recipe, banks, vae, cache, vae_step=trained_steps(cache))
    train_denoiser(recipe, subjects, bank, cache, device)
    train_decoder(recipe, banks, vae, cache, device)
    return export_now(recipe, cache, target, device)


def export_now(recipe: PretrainRecipe, cache: Path, target: Path, device: torch.device) -> Path:
    """Export the newest checkpoints, whether or not training goes on beside this call."""
    subjects = prepare_subjects(recipe, cache)
    banks = load_banks(recipe, subjects)
    vae = ready_for_latents(recipe, banks, load_autoencoder(recipe, cache, device))
    load_decoder(vae, cache, device)
    denoiser, step = load_denoiser(recipe, subjects, cache, device)
    return export_model(recipe, subjects, vae, denoiser, target, step=step)


def prepare_subjects(recipe: PretrainRecipe, cache: Path) -> list[Subject]:
    """Fetch the data where it is missing and choose the subjects."""
    pictures, labels = fetch_packages(recipe.data, cache)
    return choose_subjects(recipe.data, pictures, labels)


def load_banks(recipe: PretrainRecipe, subjects: list[Subject]) -> list[Cutouts]:
    """The subjects at their usual size and at the small one."""
    shares = (recipe.pictures.canonical_share, recipe.pictures.small_share)
    return [load_cutouts(subjects, round(recipe.resolution_px * share)) for share in shares]


def ready_for_latents(recipe: PretrainRecipe, banks: list[Cutouts], vae: AutoencoderKL) -> AutoencoderKL:
    """The trained autoencoder with its latents brought to unit spread; the same pictures give the same result."""
    scenes = list_scenes(recipe, len(banks[0]))
    some = random.Random(recipe.seed).sample(scenes, min(NORMALISE_PICTURES, len(scenes)))
    pictures = [draw_scene(recipe, banks, scene) for scene in some]
    normalise_latents(vae, torch.stack(pictures).to(vae.device))
    return vae
