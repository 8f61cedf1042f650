"""Makes complete diffusers folders with small random weights, tokenizers included, without any network."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import Unigram
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from models.spec import Defaults, Family, Limits, Memory, ModelSpec, Source

TEXT_WIDTH = 32


def make_tiny_sd(folder: Path) -> Path:
    torch.manual_seed(1)
    tokenizer = clip_tokenizer(folder.parent / "clip-vocabulary")
    StableDiffusionPipeline(
        vae=autoencoder(latent_channels=4),
        text_encoder=CLIPTextModel(clip_config(len(tokenizer))).eval(),
        tokenizer=tokenizer,
        unet=_unet(cross_attention_dim=TEXT_WIDTH),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def make_tiny_sdxl(folder: Path) -> Path:
    torch.manual_seed(2)
    tokenizer = clip_tokenizer(folder.parent / "clip-vocabulary")
    StableDiffusionXLPipeline(
        vae=autoencoder(latent_channels=4),
        text_encoder=CLIPTextModel(clip_config(len(tokenizer))).eval(),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(len(tokenizer), act="gelu")).eval(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_unet(
            cross_attention_dim=2 * TEXT_WIDTH,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def make_tiny_flux(folder: Path, *, guidance_embeds: bool = True) -> Path:
    torch.manual_seed(3)
    clip = clip_tokenizer(folder.parent / "clip-vocabulary")
    t5 = t5_tokenizer()
    t5_config = T5Config(
        vocab_size=len(t5), d_model=TEXT_WIDTH, d_kv=8, d_ff=37, num_layers=2, num_heads=4, is_encoder_decoder=False
    )
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder(latent_channels=1, shift_factor=0.0609, scaling_factor=1.5035),
        text_encoder=CLIPTextModel(clip_config(len(clip))).eval(),
        tokenizer=clip,
        text_encoder_2=T5EncoderModel(t5_config).eval(),
        tokenizer_2=t5,
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=TEXT_WIDTH,
            pooled_projection_dim=TEXT_WIDTH,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=guidance_embeds,
        ).eval(),
    ).save_pretrained(folder)
    return folder


def tiny_spec(family: Family, model_id: str | None = None) -> ModelSpec:
    """A catalogue entry for a tiny folder; the folder itself is named by `models.dirs`."""
    return ModelSpec(
        id=model_id or f"tiny-{family}",
        kind="image",
        family=family,
        title="Tiny",
        owned_by="tests",
        license="none",
        created=1,
        source=Source(hub=f"tests/tiny-{family}"),
        dtype="float32",
        defaults=Defaults(width_px=64, height_px=64, num_inference_steps=3, guidance_scale=4.0),
        limits=Limits(
            min_side_px=32,
            max_side_px=128,
            side_multiple_px=8 if family in ("sd", "sdxl") else 16,
            max_pixels=16_384,
            has_negative_prompt=family != "flux",
        ),
        memory=Memory(weights_bytes=1_000_000),
        sizes=("64x64",),
    )


def _unet(**config: object) -> UNet2DConditionModel:
    options: dict[str, object] = {
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 2,
        "attention_head_dim": 2,
    }
    return UNet2DConditionModel(**(options | config)).eval()


def autoencoder(**config: object) -> AutoencoderKL:
    # Four levels, as the real ones have: a latent is an eighth of the picture.
    return AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
        sample_size=64,
        **config,
    ).eval()


def clip_config(vocab_size: int, act: str = "quick_gelu") -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=TEXT_WIDTH,
        hidden_act=act,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
        pad_token_id=vocab_size - 1,
    )


def clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's byte-level tokenizer with two merges: single letters, which is enough to tell prompts apart."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("r", "e"), ("re", "d</w>")]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return CLIPTokenizer.from_pretrained(str(folder), model_max_length=77)


def t5_tokenizer() -> T5TokenizerFast:
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((c, -3.0) for c in letters)]
    model = Tokenizer(Unigram([*pieces, ("red", -1.0)], unk_id=2))
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    return T5TokenizerFast(tokenizer_object=model, extra_ids=0, model_max_length=512)
