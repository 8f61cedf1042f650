"""Stable Diffusion XL and its distillations: two CLIP text encoders, a UNet told the picture's size."""

from typing import Any

from pipelines.families.base import Family
from pipelines.request import GenerationRequest


class StableDiffusionXL(Family):
    def arguments(self, request: GenerationRequest) -> dict[str, Any]:
        return {
            "negative_prompt": self.negative_prompt(request),
            "guidance_scale": self.guidance_scale(request),
        }
