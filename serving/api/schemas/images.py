"""What image calls take and how pictures come back."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.request import LoraChoice, OutputFormat
from serving.api.schemas.terms import Terms
from serving.errors import BadInput
from serving.jobs.wish import ImageWish


class Lora(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=200, examples=["alice-style@2"])]
    scale: Annotated[float, Field(ge=-4, le=4, allow_inf_nan=False)] = 1.0


class ImageParameters(Terms):
    """What all image routes take."""

    model: str | None = Field(None, max_length=200, description="Catalogue id; the server's default when left out.")
    prompt: str
    n: int | None = Field(None, description="1–10; image i uses seed + i.")
    size: str | None = Field(None, max_length=100, description='"auto" or "WIDTHxHEIGHT".', examples=["128x128"])
    negative_prompt: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = Field(None, description="0 to 2^63-1; drawn at random when left out, and told in the answer.")
    scheduler: str | None = Field(None, max_length=100)
    loras: list[Lora] | None = None
    output_format: OutputFormat | None = None
    output_compression: int | None = Field(None, description="0–100; quality of jpeg and webp.")
    moderation: Literal["auto", "low"] | None = Field(None, description="low: only what is certain is flagged.")

    def wish(self) -> ImageWish:
        """The same in the words of the rooms below, silent fields filled in."""
        return ImageWish(
            prompt=self.prompt,
            model=self.model,
            n=1 if self.n is None else self.n,
            size="auto" if self.size is None else self.size,
            negative_prompt=self.negative_prompt,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            seed=self.seed,
            scheduler=self.scheduler,
            moderation=self.moderation or "auto",
            loras=tuple(LoraChoice(lora.name, lora.scale) for lora in self.loras or ()),
            output_format=self.output_format or "png",
            output_compression=100 if self.output_compression is None else self.output_compression,
            priority=self.priority or "normal",
            metadata=self.metadata or {},
            expires_in_s=self.expires_in_s,
            webhook_url=self.webhook_url,
        )


class GenerateImageBody(ImageParameters):
    """POST /v1/generate/image: unknown fields are refused."""

    model_config = ConfigDict(strict=True, extra="forbid")


class OpenAIImageBody(ImageParameters):
    """POST /v1/images/generations: OpenAI's fields and ours; unknown ones are ignored, as clients send extras."""

    model_config = ConfigDict(strict=True, extra="ignore")

    response_format: Literal["url", "b64_json"] | None = None
    background: Literal["auto", "opaque", "transparent"] | None = None
    quality: Literal["auto", "standard", "hd", "low", "medium", "high"] | None = None
    stream: bool | None = Field(None, description="Server-sent events instead of one answer.")
    partial_images: int | None = Field(None, ge=0, le=3, description="With stream: unfinished pictures on the way.")
    user: str | None = None

    def wish(self) -> ImageWish:
        if self.background == "transparent":
            raise BadInput("Pictures are made opaque.", param="background", code="unsupported")
        num_partial_images = (self.partial_images or 0) if self.stream else 0
        return replace(super().wish(), user=self.user, num_partial_images=num_partial_images)


class EditForm(OpenAIImageBody):
    """POST /v1/images/edits: the same as text fields of a form, beside the files `image` and `mask`."""

    model_config = ConfigDict(strict=False, extra="ignore")  # a form knows no numbers: "3" is one here

    strength: float | None = Field(
        None, description="Above 0, at most 1: how much of the picture may change. 0.8 when left out, 1 with a mask."
    )


class ImageData(BaseModel):
    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None
    seed: int
    is_nsfw: bool | None = Field(None, description="null: not looked at.")


class ImagesResponse(BaseModel):
    created: int
    data: list[ImageData]
    size: str
    output_format: OutputFormat
    quality: str
    background: str
    usage: dict[str, Any] | None = Field(None, description="null: our models do not count tokens.")
    job_id: str
    inference_time_s: float
