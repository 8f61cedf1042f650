"""Which layers of a model a recipe's LoRA sits on, and the LoRA itself: made by PEFT, begun from a seed.

Its tensors are named as a file names them: diffusers' component, the module's path, PEFT's ending.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from models.spec import Family
from training.randomness import generator
from training.recipe import Recipe, RecipeError, Target

ADAPTER = "default"
UNET: Mapping[Target, tuple[str, ...]] = {
    "attention": (".to_q", ".to_k", ".to_v", ".to_out.0"),
    "feed_forward": (".ff.net.0.proj", ".ff.net.2", ".proj_in", ".proj_out"),
    "convolutions": (".conv1", ".conv2", ".conv_shortcut", "samplers.0.conv"),
}
# The dot keeps the transformer's own last layer, a bare "proj_out", from being one of the single blocks'.
FLUX: Mapping[Target, tuple[str, ...]] = {
    "attention": (*UNET["attention"], ".add_q_proj", ".add_k_proj", ".add_v_proj", ".to_add_out"),
    "feed_forward": (
        *(f".{stream}.{layer}" for stream in ("ff", "ff_context") for layer in ("net.0.proj", "net.2")),
        ".proj_mlp",
        ".proj_out",
    ),
    "convolutions": (),
}
CLIP = (".q_proj", ".k_proj", ".v_proj", ".out_proj")
DENOISERS: Mapping[Family, tuple[str, Mapping[Target, tuple[str, ...]]]] = {
    "sd": ("unet", UNET),
    "sdxl": ("unet", UNET),
    "flux": ("transformer", FLUX),
}
TEXT_ENCODERS: Mapping[Family, tuple[str, ...]] = {
    "sd": ("text_encoder",),
    "sdxl": ("text_encoder", "text_encoder_2"),
    "flux": ("text_encoder",),  # the other is T5, which no trainer and no other program adapts
}
# Of SDXL's first encoder the layer before the last is what the denoiser is told; its last one learns nothing.
LAST_LAYER_UNHEARD = {("sdxl", "text_encoder")}


def lora_configs(pipeline: Any, family: Family, recipe: Recipe) -> dict[str, LoraConfig]:  # noqa: ANN401 - untyped
    """What PEFT is asked for, by component; RecipeError where a word of the recipe means no layer of this model."""
    denoiser_name, endings_of = DENOISERS[family]
    layers = _layers(getattr(pipeline, denoiser_name))
    paths: list[str] = []
    for word in recipe.lora.targets:
        found = [path for path in layers if path.endswith(endings_of[word])]
        if not found:
            raise RecipeError(f"lora.targets: {word} means no layer of a {family} model's {denoiser_name}.")
        paths += found
    configs = {denoiser_name: _config(paths, recipe, is_dora=recipe.lora.dora)}
    for name in TEXT_ENCODERS[family] if recipe.lora.text_encoder else ():
        encoder = getattr(pipeline, name)
        unheard = f"layers.{encoder.config.num_hidden_layers - 1}." if (family, name) in LAST_LAYER_UNHEARD else "\0"
        found = [path for path in _layers(encoder) if path.endswith(CLIP) and unheard not in path]
        if not found:
            raise RecipeError(f"lora.text_encoder: {name} of this model has no attention that can be adapted.")
        # Loading a DoRA into one, diffusers and transformers lose its magnitudes with no more than a warning.
        configs[name] = _config(found, recipe, is_dora=False)
    return configs


def add_adapter(pipeline: Any, configs: Mapping[str, LoraConfig], seed: int) -> dict[str, nn.Parameter]:  # noqa: ANN401
    """Put a LoRA that changes nothing yet on the model; its parameters, float32, by their names in a file, sorted.

    The first matrices depend on the seed and on their names alone, whatever the device or the order.
    """
    parameters: dict[str, nn.Parameter] = {}
    for component, config in configs.items():
        module = inject_adapter_in_model(config, getattr(pipeline, component), adapter_name=ADAPTER)
        for path, layer in module.named_modules():
            if isinstance(layer, LoraLayer):
                name = _file_name(component, path)
                _begin(layer, name, seed)
                parameters.update(_parameters(layer, name))
    return dict(sorted(parameters.items()))


def adapted_layers(module: nn.Module) -> list[Any]:
    """The layers of a component that carry the LoRA."""
    return [layer for layer in module.modules() if isinstance(layer, LoraLayer)]


@contextmanager
def switched_off(layers: Iterable[Any]) -> Generator[None, None, None]:
    """Within it these layers are the base model's."""
    own = list(layers)
    for layer in own:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in own:
            layer.enable_adapters(True)


def _layers(root: nn.Module) -> list[str]:
    return [path for path, module in root.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]


def _config(paths: list[str], recipe: Recipe, *, is_dora: bool) -> LoraConfig:
    part, alpha = recipe.lora, recipe.alpha
    return LoraConfig(
        r=part.rank,
        lora_alpha=int(alpha) if alpha.is_integer() else alpha,
        target_modules=sorted(paths),
        lora_dropout=part.dropout,
        use_dora=is_dora,
    )


def _file_name(component: str, path: str) -> str:
    if component.startswith("text_encoder"):
        # transformers 5 has dropped this level from CLIPTextModel; files, and diffusers, have kept it.
        return f"{component}.text_model.{path.removeprefix('text_model.')}"
    return f"{component}.{path}"


@torch.no_grad()
def _begin(layer: Any, name: str, seed: int) -> None:  # noqa: ANN401
    """As PEFT begins, Hu et al. 2021 (arXiv 2106.09685), section 4.1, but in float32 and from a seed of its own."""
    down, up = layer.lora_A[ADAPTER].float(), layer.lora_B[ADAPTER].float()
    start = torch.empty(down.weight.shape)
    nn.init.kaiming_uniform_(start, a=5**0.5, generator=generator(seed, f"lora {name}"))
    down.weight.copy_(start)
    up.weight.zero_()
    if ADAPTER in layer.lora_magnitude_vector:
        # Once more, now that the matrices are float32: of bfloat16 weights PEFT takes a rounded norm.
        layer.lora_magnitude_vector[ADAPTER].update_layer(
            base_layer=layer.get_base_layer(), lora_A=down.weight, lora_B=up.weight, scaling=layer.scaling[ADAPTER]
        )


def _parameters(layer: Any, name: str) -> Iterator[tuple[str, nn.Parameter]]:  # noqa: ANN401
    yield f"{name}.lora_A.weight", layer.lora_A[ADAPTER].weight
    yield f"{name}.lora_B.weight", layer.lora_B[ADAPTER].weight
    if ADAPTER in layer.lora_magnitude_vector:
        yield f"{name}.lora_magnitude_vector", layer.lora_magnitude_vector[ADAPTER].weight
