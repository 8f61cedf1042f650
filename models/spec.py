"""ModelSpec: one catalogue entry, typed. Says what a model is and may be asked for; loads nothing."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from configs.settings import Frozen

Kind = Literal["image", "video", "text"]
Family = Literal["sd", "sdxl", "flux", "sd3", "z-image", "qwen-image"]
Dtype = Literal["float32", "bfloat16", "float16"]


class Source(Frozen):
    """Where the weights come from: a folder of this project, or a hub repository at a fixed revision."""

    path: Path | None = Field(None, description="Relative to the project's root.")
    hub: str | None = Field(None, description="owner/name on the model hub.")
    revision: str = "main"
    variant: str | None = Field(None, description="diffusers file variant, such as fp16.")
    sha256: str | None = Field(None, description="Hash over all weight files, as weights.hash_folder() gives it.")
    needs_token: bool = Field(False, description="Gated: the hub asks for an accepted licence and a token.")

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("exactly one of path and hub must be given")
        return self


class Defaults(Frozen):
    """What a request that is silent gets."""

    width_px: int = Field(gt=0)
    height_px: int = Field(gt=0)
    num_inference_steps: int = Field(gt=0)
    guidance_scale: float = Field(ge=0)
    negative_prompt: str = ""
    scheduler: str | None = Field(None, description="None: the one in the model's folder.")


class Limits(Frozen):
    """What a request may ask for; checked at the door."""

    min_side_px: int = Field(gt=0)
    max_side_px: int = Field(gt=0)
    side_multiple_px: int = Field(8, gt=0)
    max_pixels: int = Field(gt=0)
    max_steps: int = Field(150, gt=0)
    max_guidance_scale: float = Field(30.0, gt=0)
    has_negative_prompt: bool = True
    has_guidance: bool = Field(True, description="False: distilled without guidance; guidance_scale is not used.")


class Memory(Frozen):
    """For placement; measured or from the size of the weights."""

    weights_bytes: int = Field(gt=0)
    num_gpus: float = Field(1.0, ge=0, description="Share of a GPU a replica asks Ray for, where there is one.")


class ModelSpec(Frozen):
    """One model this server can be told to serve."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.\-]{0,62}$")
    kind: Kind
    family: Family
    title: str
    owned_by: str
    license: str
    created: int = Field(gt=0, description="Unix seconds the weights were published.")
    source: Source
    dtype: Dtype = Field(description="Preferred on a GPU; a CPU uses float32 unless settings say otherwise.")
    defaults: Defaults
    limits: Limits
    memory: Memory
    sizes: tuple[str, ...] = Field(min_length=1, description="Sizes to suggest, WxH; the first is the default.")

    @model_validator(mode="after")
    def _defaults_within_limits(self) -> Self:
        d, limits = self.defaults, self.limits
        for side_px in (d.width_px, d.height_px):
            if not limits.min_side_px <= side_px <= limits.max_side_px or side_px % limits.side_multiple_px:
                raise ValueError(f"default size {d.width_px}x{d.height_px} is outside the model's own limits")
        if d.num_inference_steps > limits.max_steps or d.guidance_scale > limits.max_guidance_scale:
            raise ValueError("default steps or guidance are outside the model's own limits")
        return self
