"""What LoRA files call the modules of a pipeline. Built from the modules themselves, so that an unknown name stays so.

Names are compared with "." and "_" alike: kohya writes "lora_unet_mid_block_attentions_0_proj_in".
"""

from collections.abc import Iterator
from dataclasses import dataclass

from diffusers import DiffusionPipeline, FluxTransformer2DModel, UNet2DConditionModel
from torch import nn

from models.spec import Family

CLIP_L = ("lora_te_", "lora_te1_", "text_encoders.clip_l.transformer.")
# Component → the prefixes that stand for it, besides its own name.
PREFIXES: dict[Family, dict[str, tuple[str, ...]]] = {
    "sd": {"unet": (), "text_encoder": CLIP_L},
    "sdxl": {
        "unet": (),
        "text_encoder": CLIP_L,
        "text_encoder_2": ("lora_te2_", "text_encoders.clip_g.transformer."),
    },
    "flux": {
        "transformer": (),
        "text_encoder": CLIP_L,
        "text_encoder_2": ("lora_te3_", "text_encoders.t5xxl.transformer."),
    },
}
DENOISER_PREFIXES = ("", "base_model.model.", "diffusion_model.", "lora_unet_", "lora_transformer_", "lycoris_")
# Layers of a UNet's residual block as the original repositories name them.
SGM_LAYERS = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
# How diffusers named attention projections before PEFT.
OLD_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out", "to_out.0": "to_out"}


@dataclass(frozen=True, slots=True)
class Target:
    """A module that can be adapted, and which of the outputs under the file's name are its own, in its order."""

    name: str  # component.module.path
    module: nn.Linear | nn.Conv2d
    outputs: tuple[tuple[int, int], ...]  # from, to


Aliases = list[tuple[str, tuple[Target, ...]]]


def comparable(name: str) -> str:
    """A module's name as the table of `target_names` has it."""
    return name.replace(".processor.", ".").replace(".", "_")


def target_names(pipeline: DiffusionPipeline, family: Family) -> dict[str, tuple[Target, ...]]:
    """Every name a file may use → the modules it means; several where the original model has them fused into one."""
    names: dict[str, tuple[Target, ...]] = {}
    for component, prefixes in PREFIXES[family].items():
        root: nn.Module = getattr(pipeline, component)
        targets = {path: Target(f"{component}.{path}", module, ((0, _out(module)),)) for path, module in _layers(root)}
        is_denoiser = not prefixes
        prefixes = (f"{component}.", f"base_model.model.{component}.", *(prefixes or DENOISER_PREFIXES))
        aliases: Aliases = [
            (alias, (target,)) for path, target in targets.items() for alias in _aliases(path, is_denoiser)
        ]
        if is_denoiser:
            aliases += _flux_originals(root, targets) if family == "flux" else _sgm_originals(root, targets)
        for alias, meant in aliases:
            for prefix in prefixes:
                names.setdefault(comparable(prefix + alias), meant)
    return names


def _layers(root: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    for path, module in root.named_modules():
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
            yield path, module


def _out(module: nn.Linear | nn.Conv2d) -> int:
    return module.weight.shape[0]


def _aliases(path: str, is_denoiser: bool) -> Iterator[str]:
    spellings = [path]
    if not is_denoiser:
        # transformers 5 has dropped this level from CLIPTextModel, but not from CLIPTextModelWithProjection.
        bare = path.removeprefix("text_model.")
        spellings = [bare, f"text_model.{bare}"]
    for spelling in spellings:
        yield spelling
        for ending, old in OLD_ATTENTION.items():
            if spelling.endswith(f".{ending}"):
                yield spelling.removesuffix(ending) + old


def _sgm_originals(unet: UNet2DConditionModel, targets: dict[str, Target]) -> Aliases:
    """The names of Stable Diffusion's and SDXL's original repositories."""
    blocks = dict(_sgm_blocks(unet))
    originals: Aliases = []
    for path, target in targets.items():
        # The longest of our block names that the path begins with.
        parts = path.split(".")
        for length in range(len(parts), 0, -1):
            if original := blocks.get(".".join(parts[:length])):
                layer = ".".join(parts[length:])
                originals.append((f"{original}.{SGM_LAYERS.get(layer, layer)}".rstrip("."), (target,)))
                break
    return originals


def _sgm_blocks(unet: UNet2DConditionModel) -> Iterator[tuple[str, str]]:
    yield from (("conv_in", "input_blocks.0.0"), ("conv_out", "out.2"))
    yield from (("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"))
    yield from (("add_embedding.linear_1", "label_emb.0.0"), ("add_embedding.linear_2", "label_emb.0.2"))
    index = 1
    for number, block in enumerate(unet.down_blocks):
        for layer in range(len(block.resnets)):
            yield f"down_blocks.{number}.resnets.{layer}", f"input_blocks.{index}.0"
            yield f"down_blocks.{number}.attentions.{layer}", f"input_blocks.{index}.1"
            index += 1
        if block.downsamplers:
            yield f"down_blocks.{number}.downsamplers.0.conv", f"input_blocks.{index}.0.op"
            index += 1
    for layer in range(len(unet.mid_block.resnets) if unet.mid_block else 0):
        yield f"mid_block.resnets.{layer}", f"middle_block.{2 * layer}"
        yield f"mid_block.attentions.{layer}", f"middle_block.{2 * layer + 1}"
    index = 0
    for number, block in enumerate(unet.up_blocks):
        for layer in range(len(block.resnets)):
            yield f"up_blocks.{number}.resnets.{layer}", f"output_blocks.{index}.0"
            yield f"up_blocks.{number}.attentions.{layer}", f"output_blocks.{index}.1"
            index += 1
        if block.upsamplers:
            place = 2 if getattr(block, "attentions", None) else 1
            yield f"up_blocks.{number}.upsamplers.0", f"output_blocks.{index - 1}.{place}"


def _flux_originals(transformer: FluxTransformer2DModel, targets: dict[str, Target]) -> Aliases:
    """The names of FLUX's original repository, where several of our modules are one."""
    originals: Aliases = []
    for original, paths in _flux_modules(transformer):
        if not all(path in targets for path in paths):
            continue
        start, meant = 0, []
        for path in paths:
            target = targets[path]
            stop = start + _out(target.module)
            meant.append(Target(target.name, target.module, ((start, stop),)))
            start = stop
        originals.append((original, tuple(meant)))
    # Here the original has the shift before the scale, diffusers the scale before the shift.
    last = targets["norm_out.linear"]
    half, whole = _out(last.module) // 2, _out(last.module)
    swapped = Target(last.name, last.module, ((half, whole), (0, half)))
    return [*originals, ("final_layer.adaLN_modulation.1", (swapped,))]


def _flux_modules(transformer: FluxTransformer2DModel) -> Iterator[tuple[str, tuple[str, ...]]]:
    for number in range(len(transformer.transformer_blocks)):
        for stream, projections, out, suffix in (
            ("img", ("to_q", "to_k", "to_v"), "to_out.0", ""),
            ("txt", ("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out", "_context"),
        ):
            theirs, ours = f"double_blocks.{number}.{stream}", f"transformer_blocks.{number}"
            yield f"{theirs}_attn.qkv", tuple(f"{ours}.attn.{projection}" for projection in projections)
            yield f"{theirs}_attn.proj", (f"{ours}.attn.{out}",)
            yield f"{theirs}_mlp.0", (f"{ours}.ff{suffix}.net.0.proj",)
            yield f"{theirs}_mlp.2", (f"{ours}.ff{suffix}.net.2",)
            yield f"{theirs}_mod.lin", (f"{ours}.norm1{suffix}.linear",)
    for number in range(len(transformer.single_transformer_blocks)):
        theirs, ours = f"single_blocks.{number}", f"single_transformer_blocks.{number}"
        yield f"{theirs}.linear1", (*(f"{ours}.attn.to_{letter}" for letter in "qkv"), f"{ours}.proj_mlp")
        yield f"{theirs}.linear2", (f"{ours}.proj_out",)
        yield f"{theirs}.modulation.lin", (f"{ours}.norm.linear",)
    yield from (("img_in", ("x_embedder",)), ("txt_in", ("context_embedder",)), ("final_layer.linear", ("proj_out",)))
    for theirs, ours in (("time", "timestep"), ("vector", "text"), ("guidance", "guidance")):
        yield f"{theirs}_in.in_layer", (f"time_text_embed.{ours}_embedder.linear_1",)
        yield f"{theirs}_in.out_layer", (f"time_text_embed.{ours}_embedder.linear_2",)
