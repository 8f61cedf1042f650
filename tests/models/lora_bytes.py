"""LoRA files by hand: numpy and the format's own writer, no torch. What the adapter tests of all rooms start from."""

import json
import struct
from typing import Any

import numpy as np
from safetensors.numpy import save

Tensors = dict[str, np.ndarray]

MODULES = (
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
)


def peft_tensors(seed: int = 0, *, modules: tuple[str, ...] = MODULES, rank: int = 4) -> Tensors:
    """Pairs in PEFT's naming, random and the same for the same seed."""
    random = np.random.default_rng(seed)
    tensors: Tensors = {}
    for module in modules:
        tensors[f"{module}.lora_A.weight"] = random.standard_normal((rank, 16)).astype(np.float16)
        tensors[f"{module}.lora_B.weight"] = random.standard_normal((8, rank)).astype(np.float16)
    return tensors


def kohya_tensors(seed: int = 0, *, alpha: float = 2.0) -> Tensors:
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    pair = list(peft_tensors(seed, modules=(MODULES[0],)).values())
    return {
        f"{name}.lora_down.weight": pair[0],
        f"{name}.lora_up.weight": pair[1],
        f"{name}.alpha": np.array(alpha, np.float16),
    }


def lora_bytes(tensors: Tensors | None = None, *, seed: int = 0, metadata: dict[str, str] | None = None) -> bytes:
    return save(peft_tensors(seed) if tensors is None else tensors, metadata)


def raw_file(header: Any, data: bytes = b"") -> bytes:
    """A file with any header at all: what no proper writer would write."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data
