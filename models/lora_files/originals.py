"""What the original repositories call the modules of a model, and which of ours they have fused into one."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel, ZImageTransformer2DModel

from models.sgm_names import OUTER_LAYERS, RESNET_LAYERS
from models.spec import Family


@dataclass(frozen=True, slots=True)
class Original:
    """A module of an original repository, and the paths of those that are its parts here, in its order of outputs."""

    name: str
    paths: tuple[str, ...]
    is_swapped: bool = False  # there the shift comes before the scale, here the scale before the shift


def originals(denoiser: Any, family: Family, paths: Iterable[str]) -> Iterator[Original]:  # noqa: ANN401 - one of many classes
    """Those of one denoiser, whose own modules are at `paths`. It need not have all that are named here."""
    if family in READERS:
        yield from READERS[family](denoiser, paths)


def _sgm(unet: UNet2DConditionModel, paths: Iterable[str]) -> Iterator[Original]:
    """Stable Diffusion's and SDXL's."""
    blocks = dict(_sgm_blocks(unet))
    for path in paths:
        # The longest of our block names that the path begins with.
        parts = path.split(".")
        for length in range(len(parts), 0, -1):
            if original := blocks.get(".".join(parts[:length])):
                layer = ".".join(parts[length:])
                yield Original(f"{original}.{RESNET_LAYERS.get(layer, layer)}".rstrip("."), (path,))
                break


def _sgm_blocks(unet: UNet2DConditionModel) -> Iterator[tuple[str, str]]:
    yield from OUTER_LAYERS.items()
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


def _flux(transformer: FluxTransformer2DModel, paths: Iterable[str]) -> Iterator[Original]:  # noqa: ARG001
    """FLUX's."""
    for number in range(len(transformer.transformer_blocks)):
        for stream, projections, out, suffix in (
            ("img", ("to_q", "to_k", "to_v"), "to_out.0", ""),
            ("txt", ("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out", "_context"),
        ):
            theirs, ours = f"double_blocks.{number}.{stream}", f"transformer_blocks.{number}"
            yield Original(f"{theirs}_attn.qkv", tuple(f"{ours}.attn.{projection}" for projection in projections))
            yield Original(f"{theirs}_attn.proj", (f"{ours}.attn.{out}",))
            yield Original(f"{theirs}_mlp.0", (f"{ours}.ff{suffix}.net.0.proj",))
            yield Original(f"{theirs}_mlp.2", (f"{ours}.ff{suffix}.net.2",))
            yield Original(f"{theirs}_mod.lin", (f"{ours}.norm1{suffix}.linear",))
    for number in range(len(transformer.single_transformer_blocks)):
        theirs, ours = f"single_blocks.{number}", f"single_transformer_blocks.{number}"
        yield Original(f"{theirs}.linear1", (*(f"{ours}.attn.to_{letter}" for letter in "qkv"), f"{ours}.proj_mlp"))
        yield Original(f"{theirs}.linear2", (f"{ours}.proj_out",))
        yield Original(f"{theirs}.modulation.lin", (f"{ours}.norm.linear",))
    yield Original("img_in", ("x_embedder",))
    yield Original("txt_in", ("context_embedder",))
    yield Original("final_layer.linear", ("proj_out",))
    yield Original("final_layer.adaLN_modulation.1", ("norm_out.linear",), is_swapped=True)
    for theirs, ours in (("time", "timestep"), ("vector", "text"), ("guidance", "guidance")):
        yield Original(f"{theirs}_in.in_layer", (f"time_text_embed.{ours}_embedder.linear_1",))
        yield Original(f"{theirs}_in.out_layer", (f"time_text_embed.{ours}_embedder.linear_2",))


def _mmdit(transformer: SD3Transformer2DModel, paths: Iterable[str]) -> Iterator[Original]:  # noqa: ARG001
    """Stable Diffusion 3's."""
    last = len(transformer.transformer_blocks) - 1
    for number in range(last + 1):
        ours = f"transformer_blocks.{number}"
        for stream, projections, out, suffix in (
            ("x", ("to_q", "to_k", "to_v"), "to_out.0", ""),
            ("context", ("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out", "_context"),
        ):
            theirs = f"joint_blocks.{number}.{stream}_block"
            yield Original(f"{theirs}.attn.qkv", tuple(f"{ours}.attn.{projection}" for projection in projections))
            yield Original(f"{theirs}.attn.proj", (f"{ours}.attn.{out}",))
            yield Original(f"{theirs}.mlp.fc1", (f"{ours}.ff{suffix}.net.0.proj",))
            yield Original(f"{theirs}.mlp.fc2", (f"{ours}.ff{suffix}.net.2",))
            # The last block makes nothing of the text any more, and norms it as final layers do.
            is_swapped = stream == "context" and number == last
            yield Original(f"{theirs}.adaLN_modulation.1", (f"{ours}.norm1{suffix}.linear",), is_swapped)
        dual = f"joint_blocks.{number}.x_block.attn2"
        yield Original(f"{dual}.qkv", tuple(f"{ours}.attn2.to_{letter}" for letter in "qkv"))
        yield Original(f"{dual}.proj", (f"{ours}.attn2.to_out.0",))
    yield Original("x_embedder.proj", ("pos_embed.proj",))
    yield Original("final_layer.linear", ("proj_out",))
    yield Original("final_layer.adaLN_modulation.1", ("norm_out.linear",), is_swapped=True)
    for theirs, ours in (("t", "timestep"), ("y", "text")):
        yield Original(f"{theirs}_embedder.mlp.0", (f"time_text_embed.{ours}_embedder.linear_1",))
        yield Original(f"{theirs}_embedder.mlp.2", (f"time_text_embed.{ours}_embedder.linear_2",))


def _z_image(transformer: ZImageTransformer2DModel, paths: Iterable[str]) -> Iterator[Original]:  # noqa: ARG001
    """Z-Image's."""
    for stack in ("layers", "noise_refiner", "context_refiner"):
        for number in range(len(getattr(transformer, stack))):
            attention = f"{stack}.{number}.attention"
            yield Original(f"{attention}.qkv", tuple(f"{attention}.to_{letter}" for letter in "qkv"))
            yield Original(f"{attention}.out", (f"{attention}.to_out.0",))
    for layer in ("linear", "adaLN_modulation.1"):
        yield Original(f"final_layer.{layer}", (f"all_final_layer.2-1.{layer}",))


# A family that is not here is named in the original as it is in diffusers.
READERS: dict[Family, Callable[[Any, Iterable[str]], Iterator[Original]]] = {
    "sd": _sgm,
    "sdxl": _sgm,
    "flux": _flux,
    "sd3": _mmdit,
    "z-image": _z_image,
}
