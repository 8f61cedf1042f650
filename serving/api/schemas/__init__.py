"""The public contract as types: what bodies may hold and what answers look like. Field names are fixed."""

from serving.api.schemas.admin import (
    TENANT_PATTERN,
    Deleted,
    DrainBody,
    DrainState,
    KeyBody,
    KeyList,
    NewKeyBody,
    NewTenantBody,
    TenantBody,
    TenantChangesBody,
    TenantList,
)
from serving.api.schemas.errors import ErrorBody, ErrorDetail
from serving.api.schemas.frames import FramesBody
from serving.api.schemas.health import Health, Readiness
from serving.api.schemas.images import (
    EditForm,
    GenerateImageBody,
    ImageData,
    ImageParameters,
    ImagesResponse,
    Lora,
    OpenAIImageBody,
)
from serving.api.schemas.jobs import (
    AttemptBody,
    JobBody,
    JobErrorBody,
    JobList,
    attempt_body,
    job_request,
)
from serving.api.schemas.models import ModelBody, ModelList
from serving.api.schemas.results import ImageJobResult, ImageReference, image_reference

__all__ = [
    "AttemptBody",
    "Deleted",
    "DrainBody",
    "DrainState",
    "EditForm",
    "ErrorBody",
    "ErrorDetail",
    "FramesBody",
    "GenerateImageBody",
    "Health",
    "ImageData",
    "ImageJobResult",
    "ImageParameters",
    "ImageReference",
    "ImagesResponse",
    "JobBody",
    "JobErrorBody",
    "JobList",
    "KeyBody",
    "KeyList",
    "Lora",
    "ModelBody",
    "ModelList",
    "NewKeyBody",
    "NewTenantBody",
    "OpenAIImageBody",
    "Readiness",
    "TENANT_PATTERN",
    "TenantBody",
    "TenantChangesBody",
    "TenantList",
    "attempt_body",
    "image_reference",
    "job_request",
]
