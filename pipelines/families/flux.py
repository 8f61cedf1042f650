"""FLUX.1: CLIP and T5 text encoders, a transformer over packed latents, guidance as an input, not a second pass."""

from typing import Any

from pipelines.families.base import Family
from pipelines.request import GenerationRequest

# What [dev] and [schnell] were trained with; longer prompts are cut by the tokenizer.
MAX_TEXT_TOKENS = 512
MAX_TEXT_TOKENS_DISTILLED = 256


class Flux(Family):
    def arguments(self, request: GenerationRequest) -> dict[str, Any]:
        takes_guidance = bool(self.pipeline.transformer.config.guidance_embeds)
        return {
            "guidance_scale": self.guidance_scale(request),
            "max_sequence_length": MAX_TEXT_TOKENS if takes_guidance else MAX_TEXT_TOKENS_DISTILLED,
        }
