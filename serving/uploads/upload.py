"""Upload: one file that a client announced, and what became of it. Knows no storage."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.request import StoredFile
from serving.errors import AppError, BadInput, Unprocessable
from serving.jobs.job import folder_of
from serving.uploads.content import ANYTHING, Purpose

# pending ⇄ checking → ready | failed; each → deleting, in which nobody sees it any more.
Status = Literal["pending", "checking", "ready", "failed", "deleting"]
SMALLEST_GROWTH_BYTES = 1024 * 1024
MAX_PARTS = 1_000  # S3 allows ten times as many; each is a URL in one answer


@dataclass(frozen=True, slots=True)
class PartPlan:
    """How a large file is cut."""

    parts_id: str  # the object store's
    part_bytes: int

    def sizes(self, num_bytes: int) -> list[int]:
        """Bytes of part 1, 2, …; all but the last are as large as the first."""
        num_whole, rest = divmod(num_bytes, self.part_bytes)
        return [self.part_bytes] * num_whole + ([rest] if rest else [])


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the file was not taken. The same answer for everybody who asks again."""

    status: int
    code: str
    message: str

    @classmethod
    def of(cls, error: AppError) -> "Refusal":
        return cls(error.status, error.code, error.message)

    def as_error(self) -> AppError:
        kind = BadInput if self.status == BadInput.status else Unprocessable
        return kind(self.message, code=self.code)


@dataclass(frozen=True, slots=True)
class Hold:
    """Which stored object it keeps alive, or is about to."""

    object_id: str
    nonce: str


@dataclass(frozen=True, slots=True)
class Content:
    """What a ready upload holds."""

    sha256: str  # of the bytes as they were sent
    content_type: str  # what they are, whatever was said
    media: Mapping[str, Any]
    file: StoredFile
    thumbnail_key: str | None
    is_nsfw: bool | None  # None: nobody looked
    nsfw_score: float | None


@dataclass(frozen=True, slots=True)
class Upload:
    """A snapshot; UploadStore is the only one that changes what is stored."""

    id: str
    tenant: str
    user: str | None
    purpose: Purpose
    filename: str  # fit to be shown; no path
    content_type: str  # as the client says
    num_bytes: int  # as the client says
    created_at: float
    expires_at: float  # not completed by then, it is forgotten
    goes_in_parts: bool = False
    status: Status = "pending"
    urls_until: float = 0.0  # the last URL to send it to ends then
    wake_at: float = 0.0  # when the upkeep is to look at it; 0: never
    fence: int = 0  # grows with every claim; a write with an older one changes nothing
    plan: PartPlan | None = None
    hold: Hold | None = None
    content: Content | None = None  # once it is ready
    refusal: Refusal | None = None  # once it has failed

    @property
    def temp_prefix(self) -> str:
        return f"temp/{self.id}/"

    @property
    def incoming_key(self) -> str:
        """Where the client sends it."""
        return f"{self.temp_prefix}incoming"

    @property
    def folder(self) -> str:
        """Where it is kept, should it be the first with its bytes: the owner's bucket layout."""
        return f"tenants/{self.tenant}/uploads/{folder_of(self.user)}/{self.id}/"

    @property
    def claims_a_type(self) -> bool:
        return self.content_type != ANYTHING


@dataclass(frozen=True, slots=True)
class Offer:
    """What a client says of a file before it is sent."""

    filename: str
    content_type: str
    num_bytes: int
    purpose: Purpose
    user: str | None = None
    goes_in_parts: bool = False


def new_upload_id() -> str:
    """Sorts by time."""
    return f"upl_{int(time.time() * 1000):012x}{secrets.token_hex(8)}"


def new_upload(tenant: str, offer: Offer, *, keep_s: float, upload_id: str) -> Upload:
    """Announced just now."""
    now = time.time()
    return Upload(
        id=upload_id,
        tenant=tenant,
        user=offer.user,
        purpose=offer.purpose,
        filename=offer.filename,
        content_type=offer.content_type,
        num_bytes=offer.num_bytes,
        created_at=now,
        expires_at=now + keep_s,
        goes_in_parts=offer.goes_in_parts,
        wake_at=now + keep_s,
    )


def part_size(num_bytes: int, smallest_bytes: int) -> int:
    """The smallest one with which a file has no more parts than we allow."""
    needed = -(-num_bytes // MAX_PARTS)
    if needed <= smallest_bytes:
        return smallest_bytes
    return -(-needed // SMALLEST_GROWTH_BYTES) * SMALLEST_GROWTH_BYTES
