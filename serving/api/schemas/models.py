"""A model as clients see it."""

from typing import Literal

from pydantic import BaseModel

from serving.api.schemas.loras import LoraModelBody


class ModelBody(BaseModel):
    id: str
    object: Literal["model"] = "model"
    owned_by: str
    created: int
    kind: Literal["image", "video", "text"]
    family: str
    ready: bool
    title: str
    license: str
    sizes: list[str]
    default_steps: int
    default_guidance_scale: float


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelBody | LoraModelBody]
