"""Arm "diffusers": the loop of the example scripts train_text_to_image_lora(_sdxl).py, step for step, in our words.

What they do in every step, they do here: decode and scale the pictures, encode them (SDXL's in float32) and their
captions, gather and read the loss. Shortcuts, one after the other, show what each of ours is worth.

B samples, C latent channels, H W sizes, L text tokens, D text width
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import DDPMScheduler
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.optimization import get_scheduler
from diffusers.training_utils import cast_training_params
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from training_job import LEARNING_RATE, MAX_GRAD_NORM, RANK, Job, caption_of, load
from training_watch import Watch

from models.loader import LoadedModel
from training.learners.base import Draws
from training.objectives import timesteps_at

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shortcuts:
    """What the scripts do not do."""

    keeps_latents: bool = False
    keeps_texts: bool = False
    reads_no_loss: bool = False
    fuses_adamw: bool = False


@dataclass(frozen=True, slots=True)
class Given:
    """Instead of chance of its own: which pictures each step learns from, its draws, and the LoRA's first weights."""

    batches: Sequence[list[int]]
    draws: Sequence[Draws]
    start: Mapping[str, Tensor]


class Pictures(Dataset[Item]):
    """Decoded, scaled, cut and tokenized whenever they are asked for."""

    def __init__(self, job: Job, tokenizers: Sequence[Any]) -> None:
        self._paths, self._side_px, self._tokenizers = job.learned, job.side_px, tokenizers

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Item:
        path, side_px = self._paths[index], self._side_px
        with Image.open(path) as file:
            image = file.convert("RGB")
        width_px, height_px = image.size
        scale = side_px / min(image.size)
        image = image.resize((round(width_px * scale), round(height_px * scale)), Image.Resampling.BILINEAR)
        left_px, top_px = (image.width - side_px) // 2, (image.height - side_px) // 2
        pixels_HW3 = np.array(image.crop((left_px, top_px, left_px + side_px, top_px + side_px)))
        ids = [
            tokenizer(
                caption_of(path),
                max_length=tokenizer.model_max_length,
                padding="max_length",
                truncation=True,
                return_tensors="pt",
            ).input_ids[0]
            for tokenizer in self._tokenizers
        ]
        return {
            "index": torch.tensor(index),
            "pixels": torch.from_numpy(pixels_HW3).permute(2, 0, 1).float() / 127.5 - 1,
            "ids": torch.stack(ids),
            "time_ids": torch.tensor([height_px, width_px, top_px, left_px, side_px, side_px], dtype=torch.float32),
        }


class Baseline:
    """One training as the scripts run it."""

    def __init__(self, job: Job, watch: Watch, shortcuts: Shortcuts, given: Given | None) -> None:
        self._job, self._watch, self._shortcuts, self._given = job, watch, shortcuts, given
        self._loaded: LoadedModel = load(job)
        AcceleratorState._reset_state(reset_partial_state=True)  # one process may run several jobs
        self._accelerator = Accelerator(
            mixed_precision="bf16" if job.dtype == "bfloat16" else "no", cpu=self._loaded.device.type == "cpu"
        )
        self._pipeline = pipeline = self._loaded.pipeline
        self._vae, self._unet = pipeline.vae, pipeline.unet
        self._scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
        self._is_xl = hasattr(pipeline, "text_encoder_2")
        self._encoders = [pipeline.text_encoder, *([pipeline.text_encoder_2] if self._is_xl else [])]
        for part in (self._vae, self._unet, *self._encoders):
            part.requires_grad_(False)
        if self._is_xl:
            self._vae.to(torch.float32)
        targets = ["to_k", "to_q", "to_v", "to_out.0"]
        self._unet.add_adapter(
            LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=targets)
        )
        cast_training_params([self._unet], dtype=torch.float32)
        self._parameters = [parameter for parameter in self._unet.parameters() if parameter.requires_grad]
        if given is not None:
            self._begin_with(given.start)

    def run(self, folder: Path) -> tuple[Path, list[float]]:
        """The file with the LoRA, and each step's loss."""
        accelerator, job = self._accelerator, self._job
        optimizer = torch.optim.AdamW(
            self._parameters, lr=LEARNING_RATE, weight_decay=1e-2, fused=True if self._shortcuts.fuses_adamw else None
        )
        schedule = get_scheduler("constant", optimizer=optimizer)
        unet, optimizer, loader, schedule = accelerator.prepare(self._unet, optimizer, self._loader(), schedule)
        kept = self._kept(loader)
        losses: list[Any] = []
        unet.train()
        for batch in chain.from_iterable(repeat(loader)):
            with accelerator.accumulate(unet):
                self._watch.step()
                loss = self._loss(unet, batch, kept, len(losses))
                if self._shortcuts.reads_no_loss:
                    losses.append(loss.detach())
                else:
                    losses.append(accelerator.gather(loss.repeat(job.batch_size)).mean().item())
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self._parameters, MAX_GRAD_NORM)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            if not self._shortcuts.reads_no_loss:
                loss.detach().item()  # for the progress bar
            if len(losses) == job.steps:
                break
        self._watch.learned()
        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(accelerator.unwrap_model(unet)))
        self._pipeline.save_lora_weights(folder, unet_lora_layers=layers)
        return folder / "pytorch_lora_weights.safetensors", [float(loss) for loss in losses]

    def _loader(self) -> DataLoader[Item]:
        tokenizers = [self._pipeline.tokenizer, *([self._pipeline.tokenizer_2] if self._is_xl else [])]
        pictures = Pictures(self._job, tokenizers)
        if self._given is not None:
            return DataLoader(pictures, batch_sampler=self._given.batches)
        return DataLoader(pictures, batch_size=self._job.batch_size, shuffle=True, drop_last=True)

    def _loss(self, unet: Any, batch: Item, kept: Item, step: int) -> Tensor:  # noqa: ANN401
        posterior = self._posterior(batch, kept)
        latents_BCHW, noise_BCHW, timesteps_B = self._chance(posterior, step)
        weight_dtype = self._loaded.dtype
        latents_BCHW = (latents_BCHW * self._vae.config.scaling_factor).to(weight_dtype)
        noise_BCHW = noise_BCHW.to(weight_dtype)
        noisy_BCHW = self._scheduler.add_noise(latents_BCHW, noise_BCHW, timesteps_B)
        tokens_BLD, pooled_BD = self._told(batch, kept)
        added = {"text_embeds": pooled_BD, "time_ids": batch["time_ids"]} if self._is_xl else None
        predicted_BCHW = unet(noisy_BCHW, timesteps_B, tokens_BLD, added_cond_kwargs=added, return_dict=False)[0]
        target_BCHW = (
            self._scheduler.get_velocity(latents_BCHW, noise_BCHW, timesteps_B)
            if self._scheduler.config.prediction_type == "v_prediction"
            else noise_BCHW
        )
        return functional.mse_loss(predicted_BCHW.float(), target_BCHW.float(), reduction="mean")

    def _chance(self, posterior: DiagonalGaussianDistribution, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, noise and timesteps: the scripts' own, or those given."""
        num_timesteps = self._scheduler.config.num_train_timesteps
        if self._given is not None:
            draws = self._given.draws[step]
            latents_BCHW = posterior.mean + posterior.std * draws.posterior_BCHW
            return latents_BCHW, draws.noise_BCHW, timesteps_at(draws.timestep_B, num_timesteps)
        latents_BCHW = posterior.sample()
        timesteps_B = torch.randint(0, num_timesteps, latents_BCHW.shape[:1], device=latents_BCHW.device)
        return latents_BCHW, torch.randn_like(latents_BCHW), timesteps_B.long()

    def _posterior(self, batch: Item, kept: Item) -> DiagonalGaussianDistribution:
        if "moments" in kept:
            return DiagonalGaussianDistribution(kept["moments"][batch["index"]])
        with torch.no_grad():
            return self._vae.encode(batch["pixels"].to(self._vae.dtype)).latent_dist

    def _told(self, batch: Item, kept: Item) -> tuple[Tensor, Tensor]:
        """Tokens and, for SDXL, what the second encoder makes of the whole."""
        if "tokens" in kept:
            return kept["tokens"][batch["index"]], kept["pooled"][batch["index"]]
        with torch.no_grad():
            if not self._is_xl:
                tokens_BLD = self._encoders[0](batch["ids"][:, 0], return_dict=False)[0]
                return tokens_BLD, tokens_BLD[:, 0]
            outputs = [
                encoder(batch["ids"][:, number], output_hidden_states=True, return_dict=False)
                for number, encoder in enumerate(self._encoders)
            ]
            return torch.cat([output[-1][-2] for output in outputs], dim=-1), outputs[-1][0]

    def _kept(self, loader: Any) -> Item:  # noqa: ANN401 - as accelerate has prepared it
        """All pictures' posteriors and all captions' encodings, where shortcuts keep them."""
        kept: Item = {}
        if not (self._shortcuts.keeps_latents or self._shortcuts.keeps_texts):
            return kept
        device, dataset = self._accelerator.device, loader.dataset
        items = [{name: value[None].to(device) for name, value in dataset[i].items()} for i in range(len(dataset))]
        if self._shortcuts.keeps_latents:
            kept["moments"] = torch.cat([self._posterior(item, {}).parameters for item in items])
        if self._shortcuts.keeps_texts:
            told = [self._told(item, {}) for item in items]
            kept["tokens"], kept["pooled"] = (torch.cat(parts) for parts in zip(*told, strict=True))
        return kept

    @torch.no_grad()
    def _begin_with(self, start: Mapping[str, Tensor]) -> None:
        for name, parameter in self._unet.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(start[f"unet.{name.replace('.default.', '.')}"])


def train(
    job: Job, watch: Watch, folder: Path, *, shortcuts: Shortcuts = Shortcuts(), given: Given | None = None
) -> tuple[Path, list[float]]:
    """The file with the LoRA, and each step's loss."""
    return Baseline(job, watch, shortcuts, given).run(folder)
