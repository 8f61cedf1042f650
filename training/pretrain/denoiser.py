"""Trains the UNet and the text encoder together on cached latents. B rows, C channels, H W latent size, L tokens."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from training.pretrain.autoencoder import autocast
from training.pretrain.captions import every_word, write_caption
from training.pretrain.checkpoints import LossLog, Stopwatch, load_checkpoint, save_checkpoint
from training.pretrain.latents import LatentBank
from training.pretrain.muon import Muon, split_weights
from training.pretrain.recipe import PretrainRecipe
from training.pretrain.subjects import Subject
from training.pretrain.text import build_text_encoder, keep_tokenizer

CHECKPOINT = "denoiser.pt"
TOKENIZER = "tokenizer"
REPORT_EVERY_STEPS = 50


@dataclass(frozen=True)
class Denoiser:
    """What turns words and noise into latents."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDIMScheduler

    @property
    def both(self) -> nn.ModuleList:
        """The two networks, for what is done to both."""
        return nn.ModuleList([self.unet, self.text_encoder])


def build_denoiser(recipe: PretrainRecipe, subjects: list[Subject], cache: Path) -> Denoiser:
    """Fresh networks of the recipe's size, with the run's own tokenizer."""
    part = recipe.denoiser
    torch.manual_seed(recipe.seed + 1)
    texts = every_word(subjects, list(recipe.pictures.backgrounds))
    tokenizer = keep_tokenizer(texts, recipe.text, cache / TOKENIZER)
    unet = UNet2DConditionModel(
        sample_size=recipe.resolution_px // 8,
        in_channels=recipe.autoencoder.latent_channels,
        out_channels=recipe.autoencoder.latent_channels,
        # No attention at the finest level: convolutions suffice there and it would cost the most.
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=part.channels,
        layers_per_block=part.layers_per_block,
        cross_attention_dim=recipe.text.width,
        attention_head_dim=part.heads,
        # The pooled words go beside the timestep into every block, so the finest level hears of the subject too.
        addition_embed_type="text",
        addition_embed_type_num_heads=part.heads,
        norm_num_groups=part.norm_groups,
    )
    return Denoiser(unet, build_text_encoder(tokenizer, recipe.text), tokenizer, build_scheduler(recipe))


def build_scheduler(recipe: PretrainRecipe) -> DDIMScheduler:
    """The noise schedule of training, saved with the model as its default sampler."""
    part = recipe.denoiser
    return DDIMScheduler(
        beta_start=part.beta_start,
        beta_end=part.beta_end,
        beta_schedule=part.beta_schedule,
        prediction_type="v_prediction",
        # The first step must be the last trained timestep, where almost no signal is left.
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


def train_denoiser(
    recipe: PretrainRecipe, subjects: list[Subject], bank: LatentBank, cache: Path, device: torch.device
) -> Denoiser:
    """Train until the budget is spent, resuming where a killed run stopped; returns the averaged weights."""
    part = recipe.denoiser
    denoiser = build_denoiser(recipe, subjects, cache)
    model = denoiser.both.to(device)
    optimizers = _optimizers(denoiser, recipe)
    averaged = [parameter.detach().clone() for parameter in model.parameters()]
    step, spent_s = _restore(model, optimizers, averaged, load_checkpoint(cache / CHECKPOINT, device))
    watch, log = Stopwatch(spent_s, part.budget_s), LossLog(cache / "denoiser.jsonl")
    batches = _Batches(recipe, subjects, bank, denoiser, device)
    saved_s, losses = watch.spent_s, []
    while watch.progress < 1.0:
        loss = batches.loss(step)
        model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = part.peak_lr * _rate(step, watch.progress, recipe)
            optimizer.step()
        step += 1
        _average(averaged, model, min(part.ema_decay, step / (step + 10.0)))
        losses.append(loss.item())
        if step % REPORT_EVERY_STEPS == 0:
            mean = round(sum(losses) / len(losses), 5)
            log.write(stage="denoiser", step=step, spent_s=round(watch.spent_s, 1), loss=mean)
            losses.clear()
        if watch.spent_s - saved_s >= recipe.checkpoint_every_s:
            _save(cache, model, optimizers, averaged, step, watch.spent_s)
            saved_s = watch.spent_s
    _save(cache, model, optimizers, averaged, step, watch.spent_s)
    _use_averaged(model, averaged)
    return denoiser


def load_denoiser(
    recipe: PretrainRecipe, subjects: list[Subject], cache: Path, device: torch.device
) -> tuple[Denoiser, int]:
    """The averaged weights of the newest checkpoint and their step; fresh ones where there is none."""
    denoiser = build_denoiser(recipe, subjects, cache)
    model = denoiser.both.to(device)
    state = load_checkpoint(cache / CHECKPOINT, device)
    if state is None:
        return denoiser, 0
    _use_averaged(model, state["averaged"])
    return denoiser, int(state["step"])


class _Batches:
    """Draws a batch and takes its loss; the step is the seed, so a resumed run needs no generator state."""

    def __init__(
        self,
        recipe: PretrainRecipe,
        subjects: list[Subject],
        bank: LatentBank,
        denoiser: Denoiser,
        device: torch.device,
    ) -> None:
        self._recipe, self._subjects, self._bank, self._denoiser, self._device = (
            recipe,
            subjects,
            bank,
            denoiser,
            device,
        )

    def loss(self, step: int) -> Tensor:
        part, scheduler = self._recipe.denoiser, self._denoiser.scheduler
        seed = self._recipe.seed * 1_000_003 + step
        generator = torch.Generator().manual_seed(seed)
        chosen_B = torch.multinomial(self._bank.weights_N, part.batch, replacement=True, generator=generator)
        latents_BCHW = self._bank.latents_NCHW[chosen_B]
        noise_BCHW = torch.randn(latents_BCHW.shape, generator=generator)
        # Spread evenly within a batch: the loss is less noisy than with free draws. The power leans to the noisy end,
        # where the words alone decide what the picture becomes; that is the slow part to learn.
        spread_B = (torch.arange(part.batch) + torch.rand(part.batch, generator=generator)) / part.batch
        times_B = (spread_B**part.noise_lean * scheduler.config.num_train_timesteps).long()
        noisy_BCHW = scheduler.add_noise(latents_BCHW, noise_BCHW, times_B)
        velocity_BCHW = scheduler.get_velocity(latents_BCHW, noise_BCHW, times_B)
        tokens_BL = self._tokens(chosen_B.tolist(), random.Random(seed))
        with autocast(self._device):
            text_BLD = self._denoiser.text_encoder(tokens_BL.to(self._device))[0]
            made_BCHW = self._denoiser.unet(
                noisy_BCHW.to(self._device), times_B.to(self._device), encoder_hidden_states=text_BLD
            ).sample
        return nn.functional.mse_loss(made_BCHW.float(), velocity_BCHW.to(self._device))

    def _tokens(self, chosen: list[int], rng: random.Random) -> Tensor:
        dropout = self._recipe.denoiser.caption_dropout
        captions = [
            "" if rng.random() < dropout else write_caption(self._bank.scenes[index], self._subjects, rng)
            for index in chosen
        ]
        tokens: Tensor = self._denoiser.tokenizer(
            captions, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        return tokens


def _optimizers(denoiser: Denoiser, recipe: PretrainRecipe) -> list[torch.optim.Optimizer]:
    part, unet, words = recipe.denoiser, denoiser.unet, denoiser.text_encoder.get_input_embeddings()
    hidden, others = split_weights(denoiser.both, [unet.conv_in, unet.conv_out, words])
    adam = torch.optim.AdamW(others, lr=part.peak_lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    return [Muon(hidden, lr=part.peak_lr), adam]


def _rate(step: int, progress: float, recipe: PretrainRecipe) -> float:
    """Warm up, stay, then fall in a straight line: training can be lengthened until the fall begins."""
    part = recipe.denoiser
    fall = (1.0 - progress) / part.cooldown_share if part.cooldown_share else 1.0
    return min((step + 1) / part.warmup_steps, 1.0, max(fall, 0.01))


@torch.no_grad()
def _average(averaged: list[Tensor], model: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(averaged, [parameter.detach() for parameter in model.parameters()], 1.0 - decay)


@torch.no_grad()
def _use_averaged(model: nn.Module, averaged: list[Tensor]) -> None:
    for parameter, value in zip(model.parameters(), averaged, strict=True):
        parameter.copy_(value)


@torch.no_grad()
def _restore(
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    averaged: list[Tensor],
    state: dict[str, Any] | None,
) -> tuple[int, float]:
    if state is None:
        return 0, 0.0
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    for mine, saved in zip(averaged, state["averaged"], strict=True):
        mine.copy_(saved)
    return int(state["step"]), float(state["spent_s"])


def _save(
    cache: Path,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    averaged: list[Tensor],
    step: int,
    spent_s: float,
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "averaged": averaged,
        "step": step,
        "spent_s": spent_s,
    }
    save_checkpoint(cache / CHECKPOINT, state)
