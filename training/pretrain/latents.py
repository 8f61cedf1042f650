"""Encodes every variant of every subject once, so that the denoiser's steps cost the UNet alone. N variants."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from training.pretrain.autoencoder import autocast
from training.pretrain.captions import Placement, Scene
from training.pretrain.checkpoints import load_checkpoint, save_checkpoint
from training.pretrain.pictures import Cutouts, centred, paste
from training.pretrain.recipe import PretrainRecipe

CHECKPOINT = "latents.pt"
ENCODE_ROWS = 32
_PLACEMENTS: tuple[Placement, ...] = ("small", "left", "right")


@dataclass(frozen=True)
class LatentBank:
    """Cached latents, what each shows, and how often each is drawn."""

    latents_NCHW: Tensor
    scenes: list[Scene]
    weights_N: Tensor


def list_scenes(recipe: PretrainRecipe, num_subjects: int) -> list[Scene]:
    """Which variants exist: each subject on each background, some placed otherwise, some pairs."""
    rng = random.Random(recipe.seed)
    colours = list(recipe.pictures.backgrounds)
    scenes = [Scene((index,), colour, "usual") for index in range(num_subjects) for colour in colours]
    for index in range(num_subjects):
        for turn in range(recipe.latents.placed_per_subject):
            scenes.append(Scene((index,), _mostly_white(colours, rng), _PLACEMENTS[turn % len(_PLACEMENTS)]))
    if num_subjects > 1:
        for _ in range(recipe.latents.pairs):
            left, right = rng.sample(range(num_subjects), 2)
            scenes.append(Scene((left, right), _mostly_white(colours, rng), "pair"))
    return scenes


def draw_scene(recipe: PretrainRecipe, banks: list[Cutouts], scene: Scene) -> Tensor:
    """The picture (CHW, -1..1) that a scene describes."""
    canvas_px = recipe.resolution_px
    usual, small = banks
    colour_3 = torch.tensor(recipe.pictures.backgrounds[scene.background], dtype=torch.float32)
    picture_CHW = colour_3[:, None, None].expand(-1, canvas_px, canvas_px).clone()
    for index, bank, left_px in _lay_out(scene, usual, small, canvas_px):
        paste(picture_CHW, bank, index, left_px=left_px, top_px=centred(bank.size_px, canvas_px))
    return picture_CHW / 127.5 - 1.0


def cache_latents(
    recipe: PretrainRecipe, banks: list[Cutouts], vae: AutoencoderKL, cache: Path, *, vae_step: int
) -> LatentBank:
    """Encode all scenes, or read what an earlier run made with the same autoencoder, which must be normalised."""
    scenes = list_scenes(recipe, len(banks[0]))
    state = load_checkpoint(cache / CHECKPOINT, torch.device("cpu"))
    if state is None or state["latents"].shape[0] != len(scenes) or state["vae_step"] != vae_step:
        state = {"latents": _encode(recipe, banks, vae, scenes), "vae_step": vae_step}
        save_checkpoint(cache / CHECKPOINT, state)
    return LatentBank(state["latents"].float(), scenes, _weights(recipe, scenes))


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, pictures_BCHW: Tensor) -> None:
    """Bake zero mean and unit spread per channel into the 1x1 convolutions around the latents, in place.

    Pipelines then need no shift, and a scaling factor of one.
    """
    mean_BCHW = vae.encode(pictures_BCHW).latent_dist.mean
    mean_C = mean_BCHW.mean(dim=(0, 2, 3))
    std_C = mean_BCHW.std(dim=(0, 2, 3))
    channels = mean_C.shape[0]
    quant, post = vae.quant_conv, vae.post_quant_conv
    # Decoder side first: post(z) must see what it saw before, z * std + mean.
    post.bias.add_(post.weight[:, :, 0, 0] @ mean_C)
    post.weight.mul_(std_C[None, :, None, None])
    quant.weight[:channels].div_(std_C[:, None, None, None])
    quant.bias[:channels].sub_(mean_C).div_(std_C)
    quant.bias[channels:].sub_(2.0 * std_C.log())
    vae.register_to_config(scaling_factor=1.0)


def _lay_out(scene: Scene, usual: Cutouts, small: Cutouts, canvas_px: int) -> Iterator[tuple[int, Cutouts, int]]:
    right_px = canvas_px - small.size_px
    match scene.placement:
        case "usual":
            yield scene.subjects[0], usual, centred(usual.size_px, canvas_px)
        case "small":
            yield scene.subjects[0], small, centred(small.size_px, canvas_px)
        case "left":
            yield scene.subjects[0], small, 0
        case "right":
            yield scene.subjects[0], small, right_px
        case "pair":
            yield scene.subjects[0], small, 0
            yield scene.subjects[1], small, right_px


@torch.no_grad()
def _encode(recipe: PretrainRecipe, banks: list[Cutouts], vae: AutoencoderKL, scenes: list[Scene]) -> Tensor:
    parts: list[Tensor] = []
    for start in range(0, len(scenes), ENCODE_ROWS):
        rows = scenes[start : start + ENCODE_ROWS]
        pictures_BCHW = torch.stack([draw_scene(recipe, banks, scene) for scene in rows]).to(vae.device)
        with autocast(vae.device):
            mean_BCHW = vae.encode(pictures_BCHW).latent_dist.mean
        parts.append(mean_BCHW.to("cpu", torch.float16))
    return torch.cat(parts)


def _weights(recipe: PretrainRecipe, scenes: list[Scene]) -> Tensor:
    part = recipe.latents
    kinds = [_kind(scene) for scene in scenes]
    wanted = {
        "white": part.white_weight,
        "colour": part.colour_weight,
        "placed": part.placed_weight,
        "pair": part.pair_weight,
    }
    counts = Counter(kinds)
    return torch.tensor([wanted[kind] / counts[kind] for kind in kinds], dtype=torch.float64)


def _kind(scene: Scene) -> str:
    if scene.placement == "pair":
        return "pair"
    if scene.placement != "usual":
        return "placed"
    return "white" if scene.background == "white" else "colour"


def _mostly_white(colours: list[str], rng: random.Random) -> str:
    return "white" if rng.random() < 0.4 else rng.choice(colours)
