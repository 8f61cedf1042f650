"""What LoRA files call the modules of a pipeline. Built from the modules themselves, so that an unknown name stays so.

Names are compared with "." and "_" alike: kohya writes "lora_unet_mid_block_attentions_0_proj_in".
"""

from collections.abc import Iterator
from dataclasses import dataclass

from diffusers import DiffusionPipeline
from torch import nn

from models.lora_files.originals import Original, originals
from models.spec import Family

CLIP_L = ("lora_te_", "lora_te1_", "text_encoders.clip_l.transformer.")
CLIP_G = ("lora_te2_", "text_encoders.clip_g.transformer.")
T5 = ("lora_te3_", "text_encoders.t5xxl.transformer.")
# Component → the prefixes that stand for it, besides its own name.
PREFIXES: dict[Family, dict[str, tuple[str, ...]]] = {
    "sd": {"unet": (), "text_encoder": CLIP_L},
    "sdxl": {"unet": (), "text_encoder": CLIP_L, "text_encoder_2": CLIP_G},
    "flux": {"transformer": (), "text_encoder": CLIP_L, "text_encoder_2": T5},
    "sd3": {"transformer": (), "text_encoder": CLIP_L, "text_encoder_2": CLIP_G, "text_encoder_3": T5},
    "z-image": {"transformer": ()},
    "qwen-image": {"transformer": ()},
}
DENOISER_PREFIXES = ("", "base_model.model.", "diffusion_model.", "lora_unet_", "lora_transformer_", "lycoris_")
# Modules that are given the tokens of all rows in one run, where no row can have an adapter of its own.
ROWLESS: dict[Family, tuple[str, ...]] = {"z-image": ("all_x_embedder.", "cap_embedder.")}
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
        targets = {
            path: Target(f"{component}.{path}", module, ((0, _out(module)),))
            for path, module in _layers(root)
            if not path.startswith(ROWLESS.get(family, ()))
        }
        is_denoiser = not prefixes
        prefixes = (f"{component}.", f"base_model.model.{component}.", *(prefixes or DENOISER_PREFIXES))
        aliases: Aliases = [
            (alias, (target,)) for path, target in targets.items() for alias in _aliases(path, is_denoiser)
        ]
        if is_denoiser:
            aliases += [
                (original.name, _parts(original, targets))
                for original in originals(root, family, targets)
                if all(path in targets for path in original.paths)
            ]
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


def _parts(original: Original, targets: dict[str, Target]) -> tuple[Target, ...]:
    """What an original module means here: of its outputs, which are whose."""
    start, parts = 0, []
    for target in (targets[path] for path in original.paths):
        stop = start + _out(target.module)
        half = (start + stop) // 2
        outputs = ((half, stop), (start, half)) if original.is_swapped else ((start, stop),)
        parts.append(Target(target.name, target.module, outputs))
        start = stop
    return tuple(parts)
