"""EngineMeter: what an engine tells about its work while it works. Here nobody listens; serving makes metrics of it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """How much an engine has in hand."""

    waiting: int  # pictures not yet started
    active: int  # pictures between their start and their last step
    decoding: int  # pictures on their way to a file
    device_bytes: int  # memory of the device that is in use; 0 on a CPU
    adapter_bytes: int  # of it, adapters
    num_adapter_loads: int  # since the start: adapters that had to be brought to the device
    num_adapter_hits: int  # since the start: adapters that were there


class EngineMeter:
    """Called from the engine's threads; must be quick and must not raise."""

    def watch(self, read_load: Callable[[], EngineLoad]) -> None:
        """Where to look for how much the engine has in hand; called once, when it is ready."""

    def stepped(self, num_rows: int, num_samples: int, seconds: float, overhead_s: float) -> None:
        """One step of the loop: its forward pass and scheduler steps, and what the loop spent beside them."""

    def encoded(self, num_texts: int, num_cached: int, seconds: float) -> None:
        """Texts embedded, and texts found in the cache."""

    def decoded(self, num_images: int, seconds: float) -> None:
        """Latents turned into pixels."""

    def batch_split(self, reason: str) -> None:
        """A batch was tried again in two halves."""
