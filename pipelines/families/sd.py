"""Stable Diffusion 1.x and every model of its classes: one CLIP text encoder, a UNet, classifier-free guidance."""

from typing import Any

from pipelines.families.base import Family
from pipelines.request import GenerationRequest


class StableDiffusion(Family):
    def arguments(self, request: GenerationRequest) -> dict[str, Any]:
        return {
            "negative_prompt": self.negative_prompt(request),
            "guidance_scale": self.guidance_scale(request),
        }
