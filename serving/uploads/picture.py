"""What is kept of a picture: its cleaned or blurred bytes and a thumbnail of the same."""

import hashlib
import io
from dataclasses import dataclass

from PIL import Image

THUMBNAIL_TYPE = "image/webp"
THUMBNAIL_QUALITY = 80


@dataclass(frozen=True, slots=True)
class Picture:
    """Bytes that are ready to be stored."""

    data: bytes
    thumbnail: bytes
    is_blurred: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def kept_picture(cleaned: bytes, thumbnail: bytes, screened: bytes, *, thumbnail_px: int) -> Picture:
    """What moderation left of it; a blurred picture gets a thumbnail of its own."""
    if screened == cleaned:
        return Picture(cleaned, thumbnail, is_blurred=False)
    return Picture(screened, _thumbnail_of(screened, thumbnail_px), is_blurred=True)


def _thumbnail_of(data: bytes, side_px: int) -> bytes:
    out = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.thumbnail((side_px, side_px))
        image.save(out, "WEBP", quality=THUMBNAIL_QUALITY)
    return out.getvalue()
