"""The public contract as types: what bodies may hold and what answers look like. Field names are fixed."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.request import LoraChoice, OutputFormat
from serving.errors import BadInput
from serving.jobs.job import Job, Kind, Priority, Status, StoredImage
from serving.jobs.submission import ImageWish

TENANT_PATTERN = r"^[a-z0-9][a-z0-9\-]{0,62}$"  # it names a folder in S3


class Lora(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=200, examples=["alice-style@2"])]
    scale: Annotated[float, Field(ge=-4, le=4, allow_inf_nan=False)] = 1.0


class ImageParameters(BaseModel):
    """What both image routes take. null means the same as leaving a field out."""

    # Strict: "3" is not a number here, and true is not 1.
    model_config = ConfigDict(strict=True)

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
    priority: Priority | None = None
    metadata: dict[str, str] | None = None
    webhook_url: str | None = Field(None, description="Not available yet: refused when set.")

    def wish(self, *, user: str | None = None) -> ImageWish:
        if self.webhook_url is not None:
            raise BadInput("webhook_url is not available on this server.", param="webhook_url", code="unsupported")
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
            loras=tuple(LoraChoice(lora.name, lora.scale) for lora in self.loras or ()),
            output_format=self.output_format or "png",
            output_compression=100 if self.output_compression is None else self.output_compression,
            priority=self.priority or "normal",
            metadata=self.metadata or {},
            user=user,
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
    moderation: Literal["auto", "low"] | None = None
    stream: bool | None = None
    partial_images: int | None = Field(None, ge=0, le=3)
    user: str | None = None

    def check_supported(self) -> None:
        if self.stream:
            raise BadInput("stream is not available on this server.", param="stream", code="unsupported")
        if self.background == "transparent":
            raise BadInput("Pictures are made opaque.", param="background", code="unsupported")


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: ErrorDetail


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


class JobErrorBody(BaseModel):
    code: str
    message: str


class ImageReference(BaseModel):
    url: str
    seed: int
    width: int
    height: int
    content_type: str
    bytes: int
    sha256: str


class ImageJobResult(BaseModel):
    images: list[ImageReference]
    inference_time_s: float
    queue_time_s: float


class JobBody(BaseModel):
    id: str
    object: Literal["job"] = "job"
    kind: Kind
    status: Status
    progress: int
    step: int
    steps: int
    created_at: int
    started_at: int | None
    finished_at: int | None
    attempts: int
    priority: Priority
    model: str
    backend: str | None
    request: dict[str, Any]
    result: ImageJobResult | None
    error: JobErrorBody | None
    metadata: dict[str, str]
    queue_position: int | None


class JobList(BaseModel):
    object: Literal["list"] = "list"
    data: list[JobBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ModelBody(BaseModel):
    id: str
    object: Literal["model"] = "model"
    owned_by: str
    created: int
    kind: Literal["image", "video", "text", "lora"]
    family: str
    ready: bool
    title: str
    license: str
    sizes: list[str]
    default_steps: int
    default_guidance_scale: float


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelBody]


class NewKeyBody(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=100)]
    role: Literal["admin", "member"] = "member"
    tenant: str | None = Field(
        None, pattern=TENANT_PATTERN, description="Another tenant than one's own: the operator's admins only."
    )


class KeyBody(BaseModel):
    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    role: Literal["admin", "member"]
    tenant: str
    last_four: str
    created_at: int
    key: str | None = Field(None, description="The secret, shown once when the key is made.")


class KeyList(BaseModel):
    object: Literal["list"] = "list"
    data: list[KeyBody]


class Deleted(BaseModel):
    id: str
    deleted: bool = True


class NewTenantBody(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    id: Annotated[str, Field(pattern=TENANT_PATTERN)]
    name: Annotated[str, Field(max_length=200)] | None = None


class TenantBody(BaseModel):
    id: str
    object: Literal["tenant"] = "tenant"
    name: str
    created_at: int


class TenantList(BaseModel):
    object: Literal["list"] = "list"
    data: list[TenantBody]


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    status: Literal["ready", "starting"]
    missing: list[str] = Field(description="What keeps a picture from being made now; empty when ready.")
    models: dict[str, bool]


def image_reference(image: StoredImage, url: str) -> ImageReference:
    return ImageReference(
        url=url,
        seed=image.seed,
        width=image.width_px,
        height=image.height_px,
        content_type=image.content_type,
        bytes=image.num_bytes,
        sha256=image.sha256,
    )


def job_request(job: Job) -> dict[str, Any]:
    """The request in the public words, with every choice filled in."""
    request = job.request
    return {
        "model": request.model_id,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "n": request.num_images,
        "size": f"{request.width_px}x{request.height_px}",
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "seed": request.seed,
        "scheduler": request.scheduler,
        "loras": [{"name": lora.name, "scale": lora.scale} for lora in request.loras],
        "output_format": request.output_format,
        "output_compression": request.output_compression,
    }
