"""A LoRA file rewritten with kohya's keys, as AUTOMATIC1111, ComfyUI and InvokeAI read them. Moves bytes, changes none.

Every layer gets its alpha, since programs differ in what they take for a file that has none. A DoRA is refused: kohya
has no word for it, and of those who read LyCORIS's `dora_scale`, diffusers leaves it out, AUTOMATIC1111 takes it to be
of the inputs, and ComfyUI divides by the length of the base's weights alone (its pull request 15458).
"""

import json
import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.adapter_keys import Layer, place_of, read_layers
from models.errors import AdapterError
from models.safetensors_file import Header, Piece, quote_key, read_header, read_tensor, write_file
from models.sgm_names import sdxl_layer
from models.spec import Family

# Where peft's settings of each component lie in a file that diffusers wrote; they are told by component.
PEFT_METADATA = "lora_adapter_metadata"
TEXT_ENCODER_PREFIX: dict[Family, str] = {"sd": "lora_te_", "sdxl": "lora_te1_"}
# Attention as old diffusers called it, and as the text encoders themselves do.
OLD_TEXT_NAMES = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


def write_kohya(source: Path, target: Path, family: Family) -> None:
    """Raises AdapterError where a file cannot be told in kohya's words."""
    if family not in TEXT_ENCODER_PREFIX:
        raise AdapterError(f"Adapters for {family} have no kohya naming of diffusers' layers that other programs read.")
    header = read_header(source)
    pieces: dict[str, Piece] = {}
    for layer in read_layers(header.tensors):
        if layer.magnitude is not None:
            raise AdapterError("A DoRA has no kohya naming: programs that read one would make other pictures of it.")
        name = _kohya_name(layer.module, family)
        alpha = struct.pack("<f", _alpha(source, header, layer))
        for piece in (
            Piece(f"{name}.lora_down.weight", layer.down.dtype, layer.down.shape, layer.down),
            Piece(f"{name}.lora_up.weight", layer.up.dtype, layer.up.shape, layer.up),
            Piece(f"{name}.alpha", "F32", (), alpha),
        ):
            if piece.key in pieces:
                raise AdapterError(f"Two layers of the file are {quote_key(name)} in kohya's naming.")
            pieces[piece.key] = piece
    metadata = {key: text for key, text in header.metadata.items() if key != PEFT_METADATA}
    write_file(target, pieces.values(), source=source, source_data_start=header.data_start, metadata=metadata)


def _kohya_name(module: str, family: Family) -> str:
    place = place_of(module)
    if place.naming not in {"diffusers", "comfyui"}:
        raise AdapterError(f"The key {quote_key(module)} does not say which part of the model it belongs to.")
    inner = place.inner.replace(".processor.", ".")
    if place.component == "denoiser":
        # Old diffusers left the index of the output projection out; the layer is a list with one matrix in it.
        inner = re.sub(r"\.to_out$", ".to_out.0", inner)
        prefix = "lora_unet_"
        if family == "sdxl":
            layer = sdxl_layer(inner)
            if layer is None:
                raise AdapterError(f"SDXL's UNet has no layer {quote_key(module)}.")
            inner = layer
    else:
        path, _, last = inner.rpartition(".")
        inner = f"{path}.{OLD_TEXT_NAMES.get(last, last)}" if path else last
        # transformers 5 left the outer module out; kohya's names come from the time before.
        if not inner.startswith(("text_model.", "text_projection")):
            inner = f"text_model.{inner}"
        prefix = "lora_te2_" if place.component == "text_encoder_2" else TEXT_ENCODER_PREFIX[family]
    return prefix + inner.replace(".", "_")


def _alpha(source: Path, header: Header, layer: Layer) -> float:
    """The layer's own alpha, else what peft's settings in the file say, else the rank: a scale of one."""
    if layer.alpha is not None:
        return _number(layer.alpha.dtype, read_tensor(source, header, layer.alpha))
    component, _, inner = layer.module.partition(".")
    settings = _peft_settings(header.metadata, component)
    patterns = settings.get("alpha_pattern") or {}
    matching = (value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?{re.escape(key)}", inner))
    alpha = next(matching, settings.get("lora_alpha", layer.rank))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise AdapterError(f"The metadata {PEFT_METADATA!r} gives {quote_key(layer.module)} no usable alpha.")
    # Rank-stabilised adapters scale by alpha / sqrt(rank); kohya's readers always by alpha / rank.
    return alpha * math.sqrt(layer.rank) if settings.get("use_rslora") else float(alpha)


def _peft_settings(metadata: Mapping[str, str], component: str) -> dict[str, Any]:
    try:
        settings = json.loads(metadata.get(PEFT_METADATA, "{}"))
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"The metadata {PEFT_METADATA!r} is not JSON.") from error
    if not isinstance(settings, dict):
        raise AdapterError(f"The metadata {PEFT_METADATA!r} is not a JSON object.")
    prefix = f"{component}."
    return {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}


def _number(dtype: str, data: bytes) -> float:
    if dtype == "BF16":  # the upper half of a float32
        return float(struct.unpack("<f", b"\0\0" + data)[0])
    return float(struct.unpack({"F16": "<e", "F32": "<f", "F64": "<d"}[dtype], data)[0])
