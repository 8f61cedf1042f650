"""What the training bench asks of every arm: one job, the pictures it learns from, the model it learns on."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from engine_models import NOISE, TOKENIZER_DIR, Architecture, catalogue_model, random_model
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from configs.settings import ModelSettings
from models.catalog import get_model, load_catalog
from models.loader import LoadedModel, pick_device
from models.weights import HeldWeights

RANK = 16
LEARNING_RATE = 1e-4
MAX_GRAD_NORM = 1.0
TINY = "tiny"


@dataclass(frozen=True, slots=True)
class Job:
    """One training. All arms get the same; how they go about it is theirs."""

    model: str  # of the catalogue, or TINY
    architecture: Architecture | None  # instead, with random weights
    device: Literal["auto", "cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]
    threads: int  # 0: all cores
    data: str  # folder of pictures(), as text so that a job is plain data
    side_px: int
    batch_size: int
    steps: int
    warm_up_steps: int  # not counted as steady
    seed: int
    compile: bool = False

    @property
    def learned(self) -> list[Path]:
        """All pictures but the last, which is held out."""
        return sorted(Path(self.data).glob("images/*.png"))[:-1]

    @property
    def held_out(self) -> Path:
        return sorted(Path(self.data).glob("images/*.png"))[-1]


def caption_of(path: Path) -> str:
    """Each picture has a caption of its own, so that none can be encoded once for all."""
    return path.with_suffix(".txt").read_text("utf-8")


def draw_pictures(folder: Path, *, count: int, side_px: int, seed: int) -> None:
    """Pictures with shapes and grain, which take a PNG decoder about as long as photographs do, and their captions."""
    random = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    y, x = np.mgrid[0:side_px, 0:side_px] / side_px
    for index in range(count):
        waves = [np.sin(2 * np.pi * (random.uniform(1, 6) * x + random.uniform(1, 6) * y)) for _ in range(3)]
        grain = random.normal(0, 6, (side_px, side_px, 3))
        pixels = np.clip(128 + 90 * np.stack(waves, axis=-1) + grain, 0, 255).astype(np.uint8)
        path = folder / f"images/{index:04}.png"
        Image.fromarray(pixels).save(path)
        path.with_suffix(".txt").write_text(f"a photo of sks thing, number {index}", "utf-8")


def load(job: Job) -> LoadedModel:
    """The model on its device, in the job's precision; from the disk, or built of random weights."""
    settings = ModelSettings(device=job.device, dtype=job.dtype, num_threads=job.threads)
    torch.set_num_threads(job.threads or len(os.sched_getaffinity(0)))
    if job.model == TINY:
        return _tiny_model(settings)
    if job.architecture:
        return random_model(job.architecture, settings)
    return catalogue_model(job.model, None, settings, Path(job.data))


def _tiny_model(settings: ModelSettings) -> LoadedModel:
    """Stable Diffusion's parts, as small as they get: to see that the bench works, not to measure anything."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(str(TOKENIZER_DIR), model_max_length=77)
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(4, 4, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            norm_num_groups=2,
        ),
        text_encoder=CLIPTextModel(text_config).eval(),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=2,
            attention_head_dim=2,
            cross_attention_dim=16,
        ),
        scheduler=DDIMScheduler(**NOISE, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    spec = get_model(load_catalog(), "emoji-3d")
    device = pick_device(settings.device)
    held = HeldWeights(TOKENIZER_DIR, is_override=True)
    return LoadedModel(spec, pipeline.to(device), device, torch.float32, "tiny", held)
