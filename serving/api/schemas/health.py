"""What the health routes say."""

from typing import Literal

from pydantic import BaseModel, Field


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    status: Literal["ready", "starting", "draining"]
    missing: list[str] = Field(description="What keeps a picture from being made now; empty when ready.")
    models: dict[str, bool]
