"""Trains the AutoencoderKL on crops of composed pictures, then on whole ones; knows nothing of captions."""

import contextlib
import math
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

from training.pretrain.checkpoints import LossLog, Stopwatch, load_checkpoint, save_checkpoint
from training.pretrain.pictures import Cutouts, centred, compose, psnr_db
from training.pretrain.recipe import PretrainRecipe

CHECKPOINT = "autoencoder.pt"
WARMUP_STEPS = 100
REPORT_EVERY_STEPS = 50


def build_autoencoder(recipe: PretrainRecipe) -> AutoencoderKL:
    """A fresh autoencoder, convolutions only: what it learns on crops holds for any size."""
    part = recipe.autoencoder
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=part.channels,
        layers_per_block=part.layers_per_block,
        latent_channels=part.latent_channels,
        norm_num_groups=part.norm_groups,
        sample_size=recipe.resolution_px,
        mid_block_add_attention=False,
    )


def train_autoencoder(recipe: PretrainRecipe, banks: list[Cutouts], cache: Path, device: torch.device) -> AutoencoderKL:
    """Train until the budget is spent, resuming where a killed run stopped."""
    part = recipe.autoencoder
    torch.manual_seed(recipe.seed)
    model = build_autoencoder(recipe).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=part.peak_lr, betas=(0.9, 0.99), weight_decay=1e-4)
    state = load_checkpoint(cache / CHECKPOINT, device)
    step, spent_s = _restore(model, optimizer, state)
    watch, log = Stopwatch(spent_s, part.budget_s), LossLog(cache / "autoencoder.jsonl")
    maker = PictureMaker(recipe, banks)
    saved_s = watch.spent_s
    while watch.progress < 1.0:
        # The step is the seed: a resumed run sees fresh pictures and needs no generator state.
        pictures_BCHW = maker.batch(step, is_full=watch.progress >= part.full_pictures_from).to(device)
        for group in optimizer.param_groups:
            group["lr"] = part.peak_lr * min((step + 1) / WARMUP_STEPS, 0.5 + 0.5 * math.cos(math.pi * watch.progress))
        loss, figures = _loss(model, pictures_BCHW, part.kl_weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % REPORT_EVERY_STEPS == 0:
            log.write(stage="autoencoder", step=step, spent_s=round(watch.spent_s, 1), **figures)
        if watch.spent_s - saved_s >= recipe.checkpoint_every_s:
            _save(cache, model, optimizer, step, watch.spent_s)
            saved_s = watch.spent_s
    _save(cache, model, optimizer, step, watch.spent_s)
    return model.eval()


class PictureMaker:
    """Draws random training pictures: any subject, any of its sizes, palette colours and others."""

    def __init__(self, recipe: PretrainRecipe, banks: list[Cutouts]) -> None:
        self._recipe = recipe
        self._banks = banks
        self._palette_P3 = torch.tensor(list(recipe.pictures.backgrounds.values()), dtype=torch.float32)

    def batch(self, seed: int, *, is_full: bool) -> Tensor:
        """Crops, or a quarter as many whole pictures: about the same work."""
        part, canvas_px = self._recipe.autoencoder, self._recipe.resolution_px
        generator = torch.Generator().manual_seed(self._recipe.seed * 1_000_003 + seed)
        ratio = (canvas_px // part.crop_px) ** 2
        rows = max(part.crops_per_step // ratio, 1) if is_full else part.crops_per_step
        bank = self._banks[0 if torch.rand((), generator=generator) < 0.75 else 1]
        which_B = torch.randint(len(bank), (rows,), generator=generator)
        colours_B3 = self._colours(rows, generator)
        slack_px = 12
        shift_2B = torch.randint(-slack_px, slack_px + 1, (2, rows), generator=generator)
        start_px = centred(bank.size_px, canvas_px)
        if is_full:
            return compose(
                bank,
                which_B,
                colours_B3,
                canvas_px=canvas_px,
                lefts_px=start_px + shift_2B[0],
                tops_px=start_px + shift_2B[1],
            )
        # A crop of the composed picture is the cutout set on a smaller canvas, moved the other way.
        window_2B = torch.randint(0, canvas_px - part.crop_px + 1, (2, rows), generator=generator)
        offset_2B = start_px + shift_2B - window_2B
        return compose(bank, which_B, colours_B3, canvas_px=part.crop_px, lefts_px=offset_2B[0], tops_px=offset_2B[1])

    def _colours(self, rows: int, generator: torch.Generator) -> Tensor:
        chosen_B3 = self._palette_P3[torch.randint(len(self._palette_P3), (rows,), generator=generator)]
        any_B3 = torch.rand((rows, 3), generator=generator) * 255.0
        return torch.where(torch.rand((rows, 1), generator=generator) < 0.2, any_B3, chosen_B3)


def autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 arithmetic where it is faster and safe, on CPU as on CUDA."""
    return torch.autocast(device.type, torch.bfloat16)


def reconstruction_loss(made_BCHW: Tensor, true_BCHW: Tensor) -> Tensor:
    """Absolute, squared and edge error."""
    made_dx, true_dx = made_BCHW.diff(dim=-1), true_BCHW.diff(dim=-1)
    made_dy, true_dy = made_BCHW.diff(dim=-2), true_BCHW.diff(dim=-2)
    edges = l1_loss(made_dx, true_dx) + l1_loss(made_dy, true_dy)
    return l1_loss(made_BCHW, true_BCHW) + 4.0 * mse_loss(made_BCHW, true_BCHW) + 0.5 * edges


def _loss(model: AutoencoderKL, pictures_BCHW: Tensor, kl_weight: float) -> tuple[Tensor, dict[str, float]]:
    with autocast(pictures_BCHW.device):
        posterior = model.encode(pictures_BCHW).latent_dist
        made_BCHW = model.decode(posterior.sample()).sample
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
    made_BCHW = made_BCHW.float()
    loss = reconstruction_loss(made_BCHW, pictures_BCHW) + kl_weight * kl
    psnr = float(psnr_db(made_BCHW.detach(), pictures_BCHW).mean())
    return loss, {"loss": round(loss.item(), 5), "kl": round(kl.item(), 3), "psnr_db": round(psnr, 2)}


def _restore(model: AutoencoderKL, optimizer: torch.optim.Optimizer, state: dict[str, Any] | None) -> tuple[int, float]:
    if state is None:
        return 0, 0.0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["spent_s"])


def _save(cache: Path, model: AutoencoderKL, optimizer: torch.optim.Optimizer, step: int, spent_s: float) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "spent_s": spent_s}
    save_checkpoint(cache / CHECKPOINT, state)


def trained_steps(cache: Path) -> int:
    """Steps in the newest checkpoint; 0 where there is none."""
    state = load_checkpoint(cache / CHECKPOINT, torch.device("cpu"))
    return 0 if state is None else int(state["step"])


def load_autoencoder(recipe: PretrainRecipe, cache: Path, device: torch.device) -> AutoencoderKL:
    """The newest checkpoint, or a fresh model where there is none."""
    torch.manual_seed(recipe.seed)
    model = build_autoencoder(recipe).to(device)
    state = load_checkpoint(cache / CHECKPOINT, device)
    if state is not None:
        model.load_state_dict(state["model"])
    return model.eval()
