"""Keys and tenants, for those who run them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from configs.settings import Action

TENANT_PATTERN = r"^[a-z0-9][a-z0-9\-]{0,62}$"  # it names a folder in S3


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


class TenantSettings(BaseModel):
    keep_jobs_s: float | None = Field(
        None, ge=60, le=315_360_000, description="Ended jobs and their results are deleted after this."
    )
    may_use_high_priority: bool | None = Field(None, description="Members' keys too; admins' may in any case.")
    max_queued: int | None = Field(None, ge=1, le=10_000_000, description="Jobs that may wait at once.")
    max_image_bytes: int | None = Field(None, ge=1, le=10**9, description="Of one uploaded picture.")
    max_video_bytes: int | None = Field(None, ge=1, le=10**12, description="Of one uploaded video.")
    max_video_s: float | None = Field(None, ge=1, le=360_000, description="Duration of an uploaded video.")
    max_stored_bytes: int | None = Field(None, ge=0, le=10**15, description="All uploads together.")
    moderation_action: Action | None = Field(None, description="What is done about pictures and prompts flagged.")
    sexual_threshold: float | None = Field(None, gt=0, le=1, description="From this score on something is flagged.")
    minors_threshold: float | None = Field(None, gt=0, le=1, description="The same, for prompts about minors.")


class TenantChangesBody(TenantSettings):
    """What is not named stays as it is; null is the server's default."""

    model_config = ConfigDict(strict=True, extra="forbid")


class TenantBody(TenantSettings):
    id: str
    object: Literal["tenant"] = "tenant"
    name: str
    created_at: int


class DrainBody(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    within_s: Annotated[float, Field(ge=0, le=3_600, description="What runs may end within this time.")]


class DrainState(BaseModel):
    object: Literal["drain"] = "drain"
    is_draining: bool
    until: int | None = Field(None, description="Unix seconds: what still runs then goes back to the queue.")
    running: int = Field(description="Jobs that somebody works on now.")


class TenantList(BaseModel):
    object: Literal["list"] = "list"
    data: list[TenantBody]
