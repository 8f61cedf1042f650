"""How the bytes of an upload get looked at: what is asked, what comes back, and how a file is refused. Knows no Ray."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from serving.errors import Conflict, Unprocessable
from serving.uploads.content import Purpose


@dataclass(frozen=True, slots=True)
class LookLimits:
    """What a file may be: the limits of its tenant."""

    min_image_px: int  # of either side
    max_image_px: int  # of either side
    thumbnail_px: int
    max_video_s: float
    max_video_px: int  # width times height


@dataclass(frozen=True, slots=True)
class InspectOrder:
    """One object to be looked at."""

    key: str
    etag: str  # exactly this one: whoever may send it may send another at any time
    num_bytes: int
    purpose: Purpose
    max_bytes: int
    limits: LookLimits


@dataclass(frozen=True, slots=True)
class Inspected:
    """What a file is. Plain data: it crosses processes."""

    sha256: str  # hex, of the whole object
    num_bytes: int
    content_type: str
    media: Mapping[str, Any]
    cleaned: bytes | None = None  # of a picture: upright, and without what does not concern others
    thumbnail: bytes | None = None


class UploadRefused(Unprocessable):
    """The file itself is at fault, and will be the next time too."""

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message, param=param, code=code)

    def __reduce__(self) -> tuple[type["UploadRefused"], tuple[str, str]]:
        return UploadRefused, (self.code, self.message)


class FramesLink(Protocol):
    """The Frames replicas, as far as uploads need them."""

    async def inspect(self, order: InspectOrder, *, timeout_s: float) -> Inspected:
        """Raises UploadRefused; Conflict, as sent_anew() makes it; Unavailable: nobody looked.

        `timeout_s` is for the transfer too, and for waiting until a replica is free.
        """
        ...


def sent_anew() -> Conflict:
    """Another object lies there than the one that is being looked at."""
    return Conflict("The file was sent anew while it was looked at; complete it again.", code="changed_meanwhile")
