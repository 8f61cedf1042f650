"""A picture file made unrecognisable, with its format, size and origin kept. Knows no policy."""

import io
from typing import Any

from PIL import Image, ImageFilter
from PIL.PngImagePlugin import PngInfo

from models.errors import InputImageError
from pipelines.moderation.opening import BROKEN

# What is left has about this many spots along its longer side: colours and where they are, and no shape.
NUM_SPOTS = 8
JPEG_QUALITY = 90


def blur_picture(data: bytes) -> bytes:
    """The same file blurred: format, size, and what it says of its origin stay. Raises InputImageError."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            image.load()  # text may follow the pixels
            blurred = _blur(image.convert("RGB"))
            out = io.BytesIO()
            blurred.save(out, image.format, **_origin(image))
    except BROKEN as error:
        raise InputImageError(f"The image cannot be blurred: {error}.") from error
    return out.getvalue()


def _blur(image: Image.Image) -> Image.Image:
    """Averaged to a few spots, so that no filter can sharpen it again, and smoothed for the eye."""
    longer_px = max(image.size)
    spots = (max(1, image.width * NUM_SPOTS // longer_px), max(1, image.height * NUM_SPOTS // longer_px))
    few = image.resize(spots, Image.Resampling.BOX)
    smooth = few.resize(image.size, Image.Resampling.BICUBIC)
    return smooth.filter(ImageFilter.GaussianBlur(longer_px / NUM_SPOTS / 4))


def _origin(image: Image.Image) -> dict[str, Any]:
    """What of a file's records pipelines.media writes: text in PNG, EXIF and XMP elsewhere."""
    if image.format == "PNG":
        chunks = PngInfo()
        for name, text in image.info.items():
            if isinstance(name, str) and isinstance(text, str):
                chunks.add_text(name, text)
        return {"pnginfo": chunks}
    kept = {name: image.info[name] for name in ("exif", "xmp") if name in image.info}
    return kept | ({"quality": JPEG_QUALITY} if image.format == "JPEG" else {})
