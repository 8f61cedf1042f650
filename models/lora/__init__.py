"""LoRA adapters at work: which are resident on the device, and forward passes whose rows use different ones."""

from models.lora.adapter import Adapter, RowLoras
from models.lora.bank import LoraBank

__all__ = ["Adapter", "LoraBank", "RowLoras"]
