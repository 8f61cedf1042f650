"""LoRA files: whatever naming a trainer wrote, read as low-rank layers of one pipeline's own modules."""

from models.lora_files.reading import read_lora
from models.lora_files.weights import LoraLayer, LoraWeights

__all__ = ["LoraLayer", "LoraWeights", "read_lora"]
