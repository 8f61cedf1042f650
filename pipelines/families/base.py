"""Family: one model family's way from a request to pixels. Knows no files, no jobs and no threads."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import NotFinite
from models.loader import LoadedModel
from pipelines.request import GenerationRequest
from pipelines.schedulers import get_scheduler, sampler_name

# H height, W width, C colours (RGB), 0–1
PixelsHWC = NDArray[np.float32]
OnStep = Callable[[int], None]  # told the number of finished steps; may raise to stop


class Family(ABC):
    """Runs requests of one family; what a family adds is which arguments its pipeline takes."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.spec = loaded.spec
        self.pipeline = loaded.pipeline
        # Every run gets a copy: schedulers keep state, and a request may ask for another one.
        self._own_scheduler = loaded.pipeline.scheduler

    @abstractmethod
    def arguments(self, request: GenerationRequest) -> dict[str, Any]:
        """What this family's diffusers pipeline is called with, beside what all of them take."""

    def paint(self, request: GenerationRequest, seed: int, on_step: OnStep) -> PixelsHWC:
        """One picture, equal to what the plain diffusers pipeline gives for the same seed and arguments."""
        last_latents: torch.Tensor | None = None

        def after_step(_pipe: object, step: int, _timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
            nonlocal last_latents
            last_latents = tensors["latents"]
            on_step(step + 1)
            return {}

        self.pipeline.scheduler = self.scheduler(request.scheduler)
        images_BHWC = self.pipeline(
            prompt=request.prompt,
            width=request.width_px,
            height=request.height_px,
            num_inference_steps=request.num_inference_steps,
            # On the CPU whatever the device, as users do: the same seed is the same noise on every machine.
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
            callback_on_step_end=after_step,
            **self.arguments(request),
        ).images
        if last_latents is not None and not bool(torch.isfinite(last_latents).all()):
            raise NotFinite("The model produced numbers that are not finite; no picture can be made of them.")
        pixels_HWC: PixelsHWC = images_BHWC[0]
        if not np.isfinite(pixels_HWC).all():
            raise NotFinite("The decoder produced numbers that are not finite; no picture can be made of them.")
        return pixels_HWC

    def scheduler(self, name: str | None) -> Any:  # noqa: ANN401 - diffusers is untyped
        """A fresh scheduler, by name or as the folder has it; ValueError lists the names of this family."""
        own = self._own_scheduler
        if name is None:
            return type(own).from_config(own.config)
        recipe = get_scheduler(self.spec.family, name)
        return getattr(diffusers, recipe.class_name).from_config(own.config, **recipe.overrides)

    def sampler(self, name: str | None) -> str:
        """What A1111 calls the scheduler that this name stands for."""
        if name is not None:
            return get_scheduler(self.spec.family, name).sampler
        own = self._own_scheduler
        return sampler_name(type(own).__name__, has_karras_sigmas=bool(own.config.get("use_karras_sigmas", False)))

    def guidance_scale(self, request: GenerationRequest) -> float:
        """Distilled models were trained without guidance; any scale would only spoil their pictures."""
        return request.guidance_scale if self.spec.limits.has_guidance else 0.0

    def negative_prompt(self, request: GenerationRequest) -> str | None:
        """None when empty: SDXL has an embedding of its own for "nothing said", which an empty text is not."""
        return request.negative_prompt or None if self.spec.limits.has_negative_prompt else None
