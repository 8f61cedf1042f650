"""Trains the decoder further on whole pictures while the latents stay as they are: the denoiser never notices."""

import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from training.pretrain.autoencoder import REPORT_EVERY_STEPS, PictureMaker, autocast, reconstruction_loss
from training.pretrain.checkpoints import LossLog, Stopwatch, load_checkpoint, save_checkpoint
from training.pretrain.pictures import Cutouts, psnr_db
from training.pretrain.recipe import PretrainRecipe

CHECKPOINT = "decoder.pt"
# Far from the steps of the autoencoder, whose seeds these would otherwise repeat.
FIRST_SEED = 1_000_000
WARMUP_STEPS = 50


def train_decoder(
    recipe: PretrainRecipe, banks: list[Cutouts], vae: AutoencoderKL, cache: Path, device: torch.device
) -> AutoencoderKL:
    """Train until the budget is spent, in place; the encoder and its latents do not change."""
    part = recipe.autoencoder
    if part.decoder_budget_s == 0:
        return vae
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    weights = list(vae.decoder.parameters())
    optimizer = torch.optim.AdamW(weights, lr=part.decoder_lr, betas=(0.9, 0.99), weight_decay=1e-4)
    state = load_checkpoint(cache / CHECKPOINT, device)
    step, spent_s = 0, 0.0
    if state is not None:
        vae.decoder.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent_s = int(state["step"]), float(state["spent_s"])
    watch, log = Stopwatch(spent_s, part.decoder_budget_s), LossLog(cache / "decoder.jsonl")
    maker, saved_s = PictureMaker(recipe, banks), watch.spent_s
    while watch.progress < 1.0:
        pictures_BCHW = maker.batch(FIRST_SEED + step, is_full=True).to(device)
        for group in optimizer.param_groups:
            group["lr"] = part.decoder_lr * min(
                (step + 1) / WARMUP_STEPS, 0.5 + 0.5 * math.cos(math.pi * watch.progress)
            )
        with autocast(device):
            with torch.no_grad():
                latents_BCHW = vae.encode(pictures_BCHW).latent_dist.mean
            made_BCHW = vae.decode(latents_BCHW).sample
        loss = reconstruction_loss(made_BCHW.float(), pictures_BCHW)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        step += 1
        if step % REPORT_EVERY_STEPS == 0:
            psnr = float(psnr_db(made_BCHW.detach().float(), pictures_BCHW).mean())
            log.write(stage="decoder", step=step, spent_s=round(watch.spent_s, 1), loss=loss.item(), psnr_db=psnr)
        if watch.spent_s - saved_s >= recipe.checkpoint_every_s:
            _save(cache, vae, optimizer, step, watch.spent_s)
            saved_s = watch.spent_s
    _save(cache, vae, optimizer, step, watch.spent_s)
    return vae.eval()


def load_decoder(vae: AutoencoderKL, cache: Path, device: torch.device) -> None:
    """Put the newest decoder into the autoencoder, if it was trained further."""
    state = load_checkpoint(cache / CHECKPOINT, device)
    if state is not None:
        vae.decoder.load_state_dict(state["model"])


def _save(cache: Path, vae: AutoencoderKL, optimizer: torch.optim.Optimizer, step: int, spent_s: float) -> None:
    state = {"model": vae.decoder.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "spent_s": spent_s}
    save_checkpoint(cache / CHECKPOINT, state)
