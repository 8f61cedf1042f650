"""Uploads as the API tells of them. Field names are fixed."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.api.schemas.errors import ErrorDetail
from serving.uploads.content import Purpose, plain_type, shown_name
from serving.uploads.lineage import Use, UseKind
from serving.uploads.receiving import PartState, Ticket
from serving.uploads.upload import Offer, Upload

MAX_FILENAME_CHARS = 4_096  # taken; what is kept of it is shorter
Sign = Callable[[str, str | None], str]  # key, file name → URL


class NewUploadBody(BaseModel):
    """A file that will be sent."""

    model_config = ConfigDict(strict=True, extra="forbid")

    filename: Annotated[str, Field(max_length=MAX_FILENAME_CHARS, description="For people; it is no path.")]
    content_type: Annotated[str, Field(min_length=1, max_length=200, examples=["video/mp4"])]
    bytes: Annotated[int, Field(ge=0, le=10**15, description="Its exact size.")]
    purpose: Purpose
    multipart: bool | None = Field(None, description="Send it in parts; large files always are.")
    user: Annotated[str, Field(max_length=256)] | None = Field(None, description="Your user that it belongs to.")

    def offer(self, *, parts_above_bytes: int) -> Offer:
        """What is offered, in our own words."""
        return Offer(
            filename=shown_name(self.filename),
            content_type=plain_type(self.content_type),
            num_bytes=self.bytes,
            purpose=self.purpose,
            user=self.user,
            goes_in_parts=bool(self.bytes) and (bool(self.multipart) or self.bytes > parts_above_bytes),
        )


class UploadPart(BaseModel):
    number: int
    bytes: int
    has_arrived: bool
    url: str | None = Field(description="Where to PUT it; null once it has arrived.")


class UploadPartList(BaseModel):
    object: Literal["list"] = "list"
    upload_id: str
    part_bytes: int = Field(description="Of every part but the last.")
    missing: int
    data: list[UploadPart]


class UploadBody(BaseModel):
    id: str
    object: Literal["upload"] = "upload"
    status: Literal["pending", "checking", "ready", "failed"]
    purpose: Purpose
    filename: str
    content_type: str = Field(description="As it was announced; once it is ready, what it is.")
    bytes: int
    created_at: int
    url: str | None = Field(
        None, description="While it is pending, where to PUT the file; once ready, where to get it."
    )
    method: Literal["PUT"] | None = Field(None, description="While it is pending.")
    headers: dict[str, str] | None = Field(None, description="To be sent with the file, exactly so.")
    parts: list[UploadPart] | None = Field(None, description="Of a file that is sent in parts, when it is announced.")
    expires_at: int | None = Field(
        None, description="When the URLs to send it to end; ask again for fresh ones, until `forgotten_at`."
    )
    forgotten_at: int | None = Field(None, description="Not completed by then, the upload is forgotten.")
    sha256: str | None = Field(None, description="Of the bytes that were sent.")
    media: dict[str, Any] | None = None
    thumbnail_url: str | None = None
    is_nsfw: bool | None = Field(None, description="null where nobody looked.")
    nsfw_score: float | None = None
    error: ErrorDetail | None = Field(None, description="Why it failed.")


class UploadList(BaseModel):
    object: Literal["list"] = "list"
    data: list[UploadBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DerivedThing(BaseModel):
    kind: UseKind
    id: str = Field(description="Of a job or of an adapter.")


class DeletedUpload(BaseModel):
    id: str
    object: Literal["upload"] = "upload"
    deleted: bool = True
    derived: list[DerivedThing] = Field(description="What was made from it and is still there.")


def upload_body(upload: Upload, sign: Sign) -> UploadBody:
    """With pre-signed URLs to read it where it is ready."""
    content, refusal = upload.content, upload.refusal
    body = UploadBody(
        id=upload.id,
        status="pending" if upload.status == "deleting" else upload.status,
        purpose=upload.purpose,
        filename=upload.filename,
        content_type=upload.content_type,
        bytes=upload.num_bytes,
        created_at=int(upload.created_at),
    )
    if content is not None:
        body.content_type, body.sha256, body.media = content.content_type, content.sha256, dict(content.media)
        body.url = sign(content.file.key, upload.filename)
        body.thumbnail_url = sign(content.thumbnail_key, None) if content.thumbnail_key else None
        body.is_nsfw, body.nsfw_score = content.is_nsfw, content.nsfw_score
    if refusal is not None:
        body.error = ErrorDetail(**refusal.as_error().body()["error"])
    return body


def pending_body(upload: Upload, sign: Sign, *, ticket: Ticket | None, parts: list[PartState] | None) -> UploadBody:
    """With what a client needs to send it."""
    body = upload_body(upload, sign)
    body.method, body.expires_at, body.forgotten_at = "PUT", int(upload.urls_until), int(upload.expires_at)
    if ticket is not None:
        body.url, body.headers = ticket.url, ticket.headers
    if parts is not None:
        body.parts = [part_body(part) for part in parts]
    return body


def part_body(part: PartState) -> UploadPart:
    return UploadPart(number=part.number, bytes=part.num_bytes, has_arrived=part.has_arrived, url=part.url)


def derived_body(use: Use) -> DerivedThing:
    return DerivedThing(kind=use.kind, id=use.id)
