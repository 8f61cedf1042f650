"""Writes small random LoRA files for the models of tests/models/tiny.py, in the namings found in the wild.

The names are spelt out here on their own, not taken from models.lora_files, so that the two can check each other.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from models.loader import PIPELINES
from models.spec import Family

Format = Literal["peft", "kohya", "comfy"]
Targets = Literal["attention", "all"]
Pair = tuple[torch.Tensor, torch.Tensor]  # down, up; alpha not yet applied

ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0", ".add_q_proj", ".add_k_proj", ".add_v_proj", ".to_add_out")
# How the original repositories name the blocks of tiny._unet(): one layer per block, two blocks each way.
SGM_BLOCKS = {
    "conv_in": "input_blocks.0.0",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.0.upsamplers.0": "output_blocks.1.2",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
SGM_LAYERS = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
# FLUX's original modules and what each is, in order, in diffusers; several: fused into one matrix.
FLUX_MODULES = {
    "double_blocks.0.img_attn.qkv": [f"transformer_blocks.0.attn.to_{x}" for x in "qkv"],
    "double_blocks.0.img_attn.proj": ["transformer_blocks.0.attn.to_out.0"],
    "double_blocks.0.img_mlp.0": ["transformer_blocks.0.ff.net.0.proj"],
    "double_blocks.0.img_mlp.2": ["transformer_blocks.0.ff.net.2"],
    "double_blocks.0.img_mod.lin": ["transformer_blocks.0.norm1.linear"],
    "double_blocks.0.txt_attn.qkv": [f"transformer_blocks.0.attn.add_{x}_proj" for x in "qkv"],
    "double_blocks.0.txt_attn.proj": ["transformer_blocks.0.attn.to_add_out"],
    "double_blocks.0.txt_mlp.0": ["transformer_blocks.0.ff_context.net.0.proj"],
    "double_blocks.0.txt_mlp.2": ["transformer_blocks.0.ff_context.net.2"],
    "double_blocks.0.txt_mod.lin": ["transformer_blocks.0.norm1_context.linear"],
    "single_blocks.0.linear1": [
        *(f"single_transformer_blocks.0.attn.to_{x}" for x in "qkv"),
        "single_transformer_blocks.0.proj_mlp",
    ],
    "single_blocks.0.linear2": ["single_transformer_blocks.0.proj_out"],
    "single_blocks.0.modulation.lin": ["single_transformer_blocks.0.norm.linear"],
    "img_in": ["x_embedder"],
    "txt_in": ["context_embedder"],
    "time_in.in_layer": ["time_text_embed.timestep_embedder.linear_1"],
    "time_in.out_layer": ["time_text_embed.timestep_embedder.linear_2"],
    "vector_in.in_layer": ["time_text_embed.text_embedder.linear_1"],
    "vector_in.out_layer": ["time_text_embed.text_embedder.linear_2"],
    "guidance_in.in_layer": ["time_text_embed.guidance_embedder.linear_1"],
    "guidance_in.out_layer": ["time_text_embed.guidance_embedder.linear_2"],
    "final_layer.linear": ["proj_out"],
    "final_layer.adaLN_modulation.1": ["norm_out.linear"],
}
# SD3's likewise; a block without dual attention has no attn2, and the last one makes nothing of the text any more.
SD3_BLOCK = {
    "x_block.attn.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
    "x_block.attn.proj": ["attn.to_out.0"],
    "x_block.attn2.qkv": ["attn2.to_q", "attn2.to_k", "attn2.to_v"],
    "x_block.attn2.proj": ["attn2.to_out.0"],
    "x_block.mlp.fc1": ["ff.net.0.proj"],
    "x_block.mlp.fc2": ["ff.net.2"],
    "x_block.adaLN_modulation.1": ["norm1.linear"],
    "context_block.attn.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
    "context_block.attn.proj": ["attn.to_add_out"],
    "context_block.mlp.fc1": ["ff_context.net.0.proj"],
    "context_block.mlp.fc2": ["ff_context.net.2"],
    "context_block.adaLN_modulation.1": ["norm1_context.linear"],
}
SD3_MODULES = {
    f"joint_blocks.{number}.{theirs}": [f"transformer_blocks.{number}.{path}" for path in ours]
    for number in (0, 1)
    for theirs, ours in SD3_BLOCK.items()
} | {
    "x_embedder.proj": ["pos_embed.proj"],
    "context_embedder": ["context_embedder"],
    "t_embedder.mlp.0": ["time_text_embed.timestep_embedder.linear_1"],
    "t_embedder.mlp.2": ["time_text_embed.timestep_embedder.linear_2"],
    "y_embedder.mlp.0": ["time_text_embed.text_embedder.linear_1"],
    "y_embedder.mlp.2": ["time_text_embed.text_embedder.linear_2"],
    "final_layer.linear": ["proj_out"],
    "final_layer.adaLN_modulation.1": ["norm_out.linear"],
}
Z_IMAGE_MODULES = {
    f"{stack}.0.{theirs}": [f"{stack}.0.{path}" for path in ours]
    for stack in ("layers", "noise_refiner", "context_refiner")
    for theirs, ours in {
        "attention.qkv": ["attention.to_q", "attention.to_k", "attention.to_v"],
        "attention.out": ["attention.to_out.0"],
        **{name: [name] for name in ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "adaLN_modulation.0")},
    }.items()
} | {
    "t_embedder.mlp.0": ["t_embedder.mlp.0"],
    "t_embedder.mlp.2": ["t_embedder.mlp.2"],
    "final_layer.linear": ["all_final_layer.2-1.linear"],
    "final_layer.adaLN_modulation.1": ["all_final_layer.2-1.adaLN_modulation.1"],
}
MODULES = {"flux": FLUX_MODULES, "sd3": SD3_MODULES, "z-image": Z_IMAGE_MODULES}
# Shift before scale there, scale before shift in diffusers: by the module's name here.
SWAPPED = {"norm_out.linear", "transformer_blocks.1.norm1_context.linear"}
ROWLESS = ("all_x_embedder.", "cap_embedder.")  # which see all rows as one
ENCODER_PREFIXES = {
    "sd": {"text_encoder": {"kohya": "lora_te_", "comfy": "text_encoders.clip_l.transformer."}},
    "sdxl": {
        "text_encoder": {"kohya": "lora_te1_", "comfy": "text_encoders.clip_l.transformer."},
        "text_encoder_2": {"kohya": "lora_te2_", "comfy": "text_encoders.clip_g.transformer."},
    },
    "flux": {"text_encoder": {"kohya": "lora_te1_", "comfy": "text_encoders.clip_l.transformer."}},
    "sd3": {
        "text_encoder": {"kohya": "lora_te1_", "comfy": "text_encoders.clip_l.transformer."},
        "text_encoder_2": {"kohya": "lora_te2_", "comfy": "text_encoders.clip_g.transformer."},
    },
    "z-image": {},
    "qwen-image": {},
}


def make_lora(
    path: Path,
    pipeline_or_folder: Any,
    family: Family,
    *,
    format: Format = "peft",
    rank: int = 4,
    alpha: float | None = None,
    targets: Targets = "attention",
    seed: int = 0,
    strength: float = 0.5,
) -> Path:
    """Write one adapter to `path`. The same seed, rank, alpha and strength mean the same mathematics in each format.

    `attention`: the denoiser's attention projections. `all`: each of its linear and convolution layers and those of
    the CLIP text encoders. `strength` is about the size of the change relative to a unit input. The names of the
    formats "comfy" and SDXL's, FLUX's and SD3's "kohya" are known for the tiny models only.
    """
    pipeline = pipeline_or_folder
    if isinstance(pipeline, str | Path):
        pipeline = PIPELINES[family].from_pretrained(str(pipeline))
    alpha = float(rank) if alpha is None else alpha
    denoiser = "unet" if family in ("sd", "sdxl") else "transformer"
    parts = {denoiser: _random_pairs(pipeline, denoiser, rank, seed, strength, targets)}
    if targets == "all":
        for component in ENCODER_PREFIXES[family]:
            parts[component] = _random_pairs(pipeline, component, rank, seed, strength, targets)
    if format == "peft":
        tensors, metadata = _as_peft(parts, pipeline, rank, alpha)
    else:
        tensors, metadata = _as_original(parts, family, format, rank, alpha), {}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata={"format": "pt", **metadata}
    )
    return path


def _random_pairs(
    pipeline: Any, component: str, rank: int, seed: int, strength: float, targets: Targets
) -> dict[str, Pair]:
    pairs = {}
    for path, module in getattr(pipeline, component).named_modules():
        if (
            not isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
            or path == "text_projection"
            or path.startswith(ROWLESS)
        ):
            continue
        if targets == "attention" and not path.endswith(ATTENTION):
            continue
        name = f"{seed} {component} {path}".encode()
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name).digest()[:6], "big"))
        out, *rest = module.weight.shape  # rest: in, or in × height × width
        fan_in = module.weight[0].numel()
        down = torch.randn(rank, *rest, generator=generator) / fan_in**0.5
        up = torch.randn(out, rank, *(1 for _ in rest[1:]), generator=generator) * strength / rank**0.5
        pairs[path] = (down, up)
    return pairs


def _as_peft(
    parts: dict[str, dict[str, Pair]], pipeline: Any, rank: int, alpha: float
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    tensors: dict[str, torch.Tensor] = {}
    config: dict[str, object] = {}
    for component, pairs in parts.items():
        is_encoder = component.startswith("text_encoder")
        for path, (down, up) in pairs.items():
            name = f"text_model.{path}" if is_encoder and not path.startswith("text_model.") else path
            tensors[f"{component}.{name}.lora_A.weight"] = down
            tensors[f"{component}.{name}.lora_B.weight"] = up
        config |= {
            f"{component}.r": rank,
            f"{component}.lora_alpha": alpha,
            f"{component}.target_modules": sorted(pairs),
        }
    # What diffusers' own save_lora_weights() writes; without it, alpha means rank.
    return tensors, {"lora_adapter_metadata": json.dumps(config)} if alpha != rank else {}


def _as_original(
    parts: dict[str, dict[str, Pair]], family: Family, format: Format, rank: int, alpha: float
) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}

    def put(prefix: str, name: str, down: torch.Tensor, up: torch.Tensor) -> None:
        key = prefix + (name.replace(".", "_") if format == "kohya" else name)
        tensors[f"{key}.lora_down.weight"], tensors[f"{key}.lora_up.weight"] = down, up
        # The same alpha / rank, also where fusing has made the rank larger.
        tensors[f"{key}.alpha"] = torch.tensor(alpha * down.shape[0] / rank)

    for component, pairs in parts.items():
        if component.startswith("text_encoder"):
            prefix = ENCODER_PREFIXES[family][component][format]
            for path, pair in pairs.items():
                put(prefix, path if path.startswith("text_model.") else f"text_model.{path}", *pair)
            continue
        prefix = {"kohya": "lora_unet_", "comfy": "diffusion_model."}[format]
        if family in MODULES:
            for name, paths in MODULES[family].items():
                if any(path in pairs for path in paths):
                    put(prefix, name, *_fuse(paths, [pairs.get(path) for path in paths]))
        else:
            # kohya trains SD 1.x in diffusers' layout, SDXL in the original one; Qwen-Image has only one.
            is_sgm = family == "sdxl" or (family == "sd" and format == "comfy")
            for path, pair in pairs.items():
                put(prefix, _sgm_name(path) if is_sgm else path, *pair)
    return tensors


def _fuse(paths: list[str], pairs: list[Pair | None]) -> Pair:
    """One block-diagonal adapter over the outputs of several modules, as trainers write that adapt them apart."""
    if paths[0] in SWAPPED:
        assert pairs[0] is not None
        down, up = pairs[0]
        return down, torch.cat(up.chunk(2)[::-1])
    if len(pairs) == 1:
        assert pairs[0] is not None
        return pairs[0]
    known = [pair for pair in pairs if pair is not None]
    # proj_mlp, the only one that may be missing, is four times as wide as the others.
    blocks = [pair[1] if pair else torch.zeros(4 * known[0][1].shape[0], 0) for pair in pairs]
    return torch.cat([down for down, _ in known]), torch.block_diag(*blocks)


def _sgm_name(path: str) -> str:
    for block, original in SGM_BLOCKS.items():
        if path == block or path.startswith(f"{block}."):
            layer = path.removeprefix(block)
            return original + (f".{SGM_LAYERS[layer[1:]]}" if layer[1:] in SGM_LAYERS else layer)
    raise ValueError(f"no original name known for {path}")
