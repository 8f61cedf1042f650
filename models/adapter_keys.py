"""What the keys of a LoRA file say: which layer, which half of the pair, whose naming. Reads headers, never weights.

Whether the layers exist in a model is for the engine to say; here a file is told from what is no LoRA at all.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from models.errors import AdapterError
from models.safetensors_file import TensorInfo, quote_key

Naming = Literal["diffusers", "kohya", "comfyui", "other"]
Role = Literal["down", "up", "alpha", "magnitude"]
Component = Literal["denoiser", "text_encoder", "text_encoder_2"]

ENDINGS: tuple[tuple[str, Role], ...] = (
    (".lora_A.weight", "down"),
    (".lora_B.weight", "up"),
    (".lora_A.default.weight", "down"),  # PEFT's own name for an adapter that has none
    (".lora_B.default.weight", "up"),
    (".lora_down.weight", "down"),
    (".lora_up.weight", "up"),
    (".lora_linear_layer.down.weight", "down"),
    (".lora_linear_layer.up.weight", "up"),
    (".lora.down.weight", "down"),
    (".lora.up.weight", "up"),
    ("_lora.down.weight", "down"),  # attention processors of old diffusers: …to_q_lora.down.weight
    ("_lora.up.weight", "up"),
    (".alpha", "alpha"),
    (".lora_magnitude_vector", "magnitude"),
    (".lora_magnitude_vector.weight", "magnitude"),
    (".lora_magnitude_vector.default.weight", "magnitude"),
    (".dora_scale", "magnitude"),  # LyCORIS
)
HALVES: tuple[Role, Role] = ("down", "up")
BEGINNINGS: tuple[tuple[str, Naming, Component], ...] = (
    ("lora_unet_", "kohya", "denoiser"),
    ("lora_te2_", "kohya", "text_encoder_2"),
    ("lora_te1_", "kohya", "text_encoder"),
    ("lora_te_", "kohya", "text_encoder"),
    ("unet.", "diffusers", "denoiser"),
    ("transformer.", "diffusers", "denoiser"),
    ("text_encoder.", "diffusers", "text_encoder"),
    ("text_encoder_2.", "diffusers", "text_encoder_2"),
    ("diffusion_model.", "comfyui", "denoiser"),
    ("text_encoders.clip_l.transformer.", "comfyui", "text_encoder"),
    ("text_encoders.clip_g.transformer.", "comfyui", "text_encoder_2"),
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One adapted layer: its two matrices, the alpha that scales them by alpha / rank, a DoRA's magnitudes."""

    module: str  # as the file spells it, without the LoRA ending
    down: TensorInfo
    up: TensorInfo
    alpha: TensorInfo | None
    magnitude: TensorInfo | None

    @property
    def rank(self) -> int:
        return self.down.shape[0]


@dataclass(frozen=True, slots=True)
class Place:
    """Which part of a pipeline a layer belongs to, and its name in there."""

    naming: Naming
    component: Component
    inner: str


def read_layers(tensors: Sequence[TensorInfo]) -> tuple[Layer, ...]:
    """All layers, in order of their names; AdapterError names the key that does not fit."""
    found: dict[str, dict[Role, TensorInfo]] = {}
    for tensor in tensors:
        module, role = _split(tensor.key)
        roles = found.setdefault(module, {})
        if role in roles:
            raise AdapterError(f"The keys {quote_key(roles[role].key)} and {quote_key(tensor.key)} are for one layer.")
        roles[role] = tensor
    return tuple(_layer(module, found[module]) for module in sorted(found))


def naming_of(layers: Sequence[Layer]) -> Naming:
    """Whose words most layers are named in."""
    return Counter(place_of(layer.module).naming for layer in layers).most_common(1)[0][0]


def place_of(module: str) -> Place:
    for beginning, naming, component in BEGINNINGS:
        if module.startswith(beginning):
            return Place(naming, component, module.removeprefix(beginning))
    return Place("other", "denoiser", module)


def _split(key: str) -> tuple[str, Role]:
    for ending, role in ENDINGS:
        if key.endswith(ending) and len(key) > len(ending):
            return key.removesuffix(ending), role
    raise AdapterError(
        f"The key {quote_key(key)} is no part of a LoRA: only low-rank matrices, their alphas and magnitudes are."
    )


def _layer(module: str, roles: dict[Role, TensorInfo]) -> Layer:
    for role in HALVES:
        if role not in roles:
            present = next(iter(roles.values()))
            raise AdapterError(f"The key {quote_key(present.key)} has no partner: its layer lacks the {role} matrix.")
        if not 2 <= len(roles[role].shape) <= 4 or 0 in roles[role].shape:
            raise AdapterError(f"The key {quote_key(roles[role].key)} is no matrix: {list(roles[role].shape)}.")
    down, up, alpha, magnitude = roles["down"], roles["up"], roles.get("alpha"), roles.get("magnitude")
    if up.shape[1] != down.shape[0]:
        raise AdapterError(
            f"The key {quote_key(up.key)} has rank {up.shape[1]}; its partner {quote_key(down.key)} {down.shape[0]}."
        )
    if alpha is not None and math.prod(alpha.shape) != 1:
        raise AdapterError(f"The key {quote_key(alpha.key)} is no single number: {list(alpha.shape)}.")
    if magnitude is not None and not 1 <= len(magnitude.shape) <= 4:
        raise AdapterError(f"The key {quote_key(magnitude.key)} is no list of magnitudes: {list(magnitude.shape)}.")
    return Layer(module, down, up, alpha, magnitude)
