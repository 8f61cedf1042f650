"""Makes complete folders of the later flow-matching families, as tests.models.tiny does for the first three."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import pre_tokenizers
from transformers import (
    CLIPTextModelWithProjection,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from tests.models.tiny import TEXT_WIDTH, autoencoder, clip_config, clip_tokenizer, t5_tokenizer

# So long that some of the tests' prompts fill 32 tokens, to which the transformer rounds up, and some do not.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>the {{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
# The middle of what Qwen-Image's pipeline puts before each prompt, as one token: then it is 34 tokens long in all, as
# the pipeline takes it to be, and what is left is the prompt's own.
LONG_TOKEN = (
    "e by detailing the color, shape, size, texture, quantity, text, spatial relationships of the objects and "
    "background:"
)


def make_tiny_sd3(folder: Path) -> Path:
    torch.manual_seed(4)
    clip, t5 = clip_tokenizer(folder.parent / "clip-vocabulary"), t5_tokenizer()
    # As wide as both CLIPs side by side, or more: theirs is filled up with zeros.
    t5_width = 2 * TEXT_WIDTH + 8
    t5_config = T5Config(
        vocab_size=len(t5), d_model=t5_width, d_kv=8, d_ff=37, num_layers=2, num_heads=4, is_encoder_decoder=False
    )
    StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(latent_channels=16, shift_factor=0.0609, scaling_factor=1.5305),
        text_encoder=CLIPTextModelWithProjection(clip_config(len(clip))).eval(),
        tokenizer=clip,
        text_encoder_2=CLIPTextModelWithProjection(clip_config(len(clip), act="gelu")).eval(),
        tokenizer_2=clip,
        text_encoder_3=T5EncoderModel(t5_config).eval(),
        tokenizer_3=t5,
        transformer=SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=t5_width,
            caption_projection_dim=32,
            pooled_projection_dim=2 * TEXT_WIDTH,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ).eval(),
    ).save_pretrained(folder)
    return folder


def make_tiny_z_image(folder: Path) -> Path:
    torch.manual_seed(5)
    tokenizer = _qwen_tokenizer(folder.parent / "qwen-vocabulary")
    ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(latent_channels=16, shift_factor=0.1159, scaling_factor=0.3611),
        text_encoder=Qwen3Model(
            Qwen3Config(
                vocab_size=len(tokenizer),
                hidden_size=TEXT_WIDTH,
                intermediate_size=37,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=8,
            )
        ).eval(),
        tokenizer=tokenizer,
        transformer=ZImageTransformer2DModel(
            in_channels=16,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=TEXT_WIDTH,
            axes_dims=[4, 6, 6],
            axes_lens=[1024, 64, 64],
        ).eval(),
    ).save_pretrained(folder)
    return folder


def make_tiny_qwen_image(folder: Path) -> Path:
    torch.manual_seed(6)
    tokenizer = _qwen_tokenizer(folder.parent / "qwen-vocabulary")
    sizes = {"hidden_size": TEXT_WIDTH, "intermediate_size": 37}
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    with torch.no_grad():
        # Else a text would hardly show in a picture, and nothing that may be wrong with it.
        transformer.transformer_blocks[0].attn.add_v_proj.weight.mul_(30)
    QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
        ),
        vae=AutoencoderKLQwenImage(
            base_dim=4, z_dim=4, num_res_blocks=1, latents_mean=[-0.8, 0.1, 0.4, -0.2], latents_std=[2.8, 1.5, 2.3, 1.2]
        ).eval(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(
                text_config={
                    **sizes,
                    "vocab_size": len(tokenizer),
                    "bos_token_id": None,
                    "eos_token_id": None,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "num_key_value_heads": 2,
                    "rope_scaling": {"type": "default", "mrope_section": [1, 1, 2], "rope_type": "default"},
                },
                vision_config={**sizes, "depth": 1, "num_heads": 2, "out_hidden_size": TEXT_WIDTH},
            )
        ).eval(),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
    ).save_pretrained(folder)
    return folder


def _qwen_tokenizer(folder: Path) -> Qwen2Tokenizer:
    """Byte by byte, without a single merge."""
    special = ["<|im_start|>", "<|im_end|>", LONG_TOKEN]
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|endoftext|>", *special]
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return Qwen2Tokenizer.from_pretrained(str(folder), extra_special_tokens=special, chat_template=CHAT_TEMPLATE)
