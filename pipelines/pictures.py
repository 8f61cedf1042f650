"""Pictures that requests start from: bytes → PIL, upright, in the size asked for. Refuses what would not end well."""

import io
import struct
import zlib

from PIL import Image, ImageOps

from models.errors import InputImageError

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_SIDE_PX = 8_192  # a header may promise any size; what is decoded must fit into memory
# What Pillow raises at bytes that are not what they should be; it asserts, for one, that palettes are there.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AssertionError),
    *(struct.error, zlib.error),
)


def open_picture(data: bytes, *, width_px: int, height_px: int) -> Image.Image:
    """RGB in the size asked for; what is transparent becomes white."""
    image = _open(data, "image")
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        layers = image.convert("RGBA")
        white = Image.new("RGBA", layers.size, "white")
        image = Image.alpha_composite(white, layers)
    return image.convert("RGB").resize((width_px, height_px), Image.Resampling.LANCZOS)


def open_mask(data: bytes, *, width_px: int, height_px: int) -> Image.Image:
    """L in the size asked for: white where the mask file is transparent, which is where it is to be painted anew."""
    image = _open(data, "mask")
    if "A" not in image.getbands() and "transparency" not in image.info:
        raise InputImageError("The mask has no transparency; what is transparent is painted anew.")
    alpha = image.convert("RGBA").getchannel("A").resize((width_px, height_px), Image.Resampling.NEAREST)
    return ImageOps.invert(alpha)


def _open(data: bytes, what: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if max(image.size) > MAX_SIDE_PX:
                raise InputImageError(
                    f"The {what} is {image.width}x{image.height} px; {MAX_SIDE_PX} a side is allowed."
                )
            return ImageOps.exif_transpose(image)
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise InputImageError(f"The {what} cannot be read: {error}.") from error
