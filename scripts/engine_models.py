"""Models to measure: from the catalogue, from a folder, or the real architectures with random weights, without network.

Random weights paint noise, but a denoiser's time does not depend on what its weights are.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

from configs.settings import PROJECT_DIR, ModelSettings
from models.catalog import get_model, load_catalog
from models.loader import LoadedModel, load_model, pick_device, pick_dtype
from models.weights import HeldWeights

Architecture = Literal["sd15", "sdxl", "flux"]
CATALOGUE_IDS: dict[Architecture, str] = {"sd15": "sd15", "sdxl": "sdxl", "flux": "flux-dev"}
# Any tokenizer serves random weights; this one is in the repository.
TOKENIZER_DIR = PROJECT_DIR / "models/embedded/emoji-3d/tokenizer"
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def catalogue_model(model_id: str, folder: Path | None, settings: ModelSettings, state_dir: Path) -> LoadedModel:
    """A model of the catalogue, from `folder` if one is given."""
    spec = get_model(load_catalog(), model_id)
    dirs = {**settings.dirs, model_id: folder} if folder else settings.dirs
    return load_model(spec, settings.model_copy(update={"dirs": dirs}), state_dir)


def random_model(architecture: Architecture, settings: ModelSettings) -> LoadedModel:
    """The architecture in its full size; the same weights every time."""
    spec = get_model(load_catalog(), CATALOGUE_IDS[architecture])
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, spec, device)
    torch.manual_seed(0)
    with _new_tensors(device, dtype):
        pipeline = BUILDERS[architecture]()
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    held = HeldWeights(TOKENIZER_DIR, is_override=True)
    return LoadedModel(spec, pipeline, device, dtype, f"random-{architecture}", held)


@contextmanager
def _new_tensors(device: torch.device, dtype: torch.dtype) -> Generator[None, None, None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def _sd15() -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=_autoencoder(4, sample_size=512, scaling_factor=0.18215),
        text_encoder=CLIPTextModel(_clip(768, layers=12, heads=12)),
        tokenizer=_tokenizer(77),
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768),  # all else is the default
        scheduler=PNDMScheduler(**NOISE, skip_prk_steps=True, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl() -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(
        vae=_autoencoder(4, sample_size=1024, scaling_factor=0.13025),
        text_encoder=CLIPTextModel(_clip(768, layers=12, heads=12)),
        text_encoder_2=CLIPTextModelWithProjection(_clip(1280, layers=32, heads=20, act="gelu")),
        tokenizer=_tokenizer(77),
        tokenizer_2=_tokenizer(77),
        unet=UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        scheduler=EulerDiscreteScheduler(**NOISE, timestep_spacing="leading"),
        add_watermarker=False,
    )


def _flux() -> FluxPipeline:
    t5 = T5Config(
        vocab_size=32_128,
        d_model=4096,
        d_kv=64,
        d_ff=10_240,
        num_layers=24,
        num_heads=64,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_autoencoder(
            16,
            sample_size=1024,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=CLIPTextModel(_clip(768, layers=12, heads=12)),
        tokenizer=_tokenizer(77),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=_tokenizer(512),
        transformer=FluxTransformer2DModel(guidance_embeds=True),  # all else is the default
    )


BUILDERS: dict[Architecture, Callable[[], Any]] = {"sd15": _sd15, "sdxl": _sdxl, "flux": _flux}


def _autoencoder(latent_channels: int, **config: object) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=latent_channels,
        **config,
    )


def _clip(width: int, *, layers: int, heads: int, act: str = "quick_gelu") -> CLIPTextConfig:
    tokenizer = _tokenizer(77)
    return CLIPTextConfig(
        vocab_size=49_408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
        hidden_act=act,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _tokenizer(max_length: int) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(str(TOKENIZER_DIR), model_max_length=max_length)
