"""Picture files from anywhere → RGB pixels for a classifier. Refuses what is no picture, and what is too large."""

import io
import struct

from PIL import Image, ImageOps, UnidentifiedImageError

from models.errors import InputImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MAX_SIDE_PX = 8_192  # a header may promise any size; what is decoded must fit into memory
# What Pillow's decoders raise for files that somebody made to break them.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)


def open_to_look(data: bytes) -> Image.Image:
    """The picture as people see it: RGB, upright, on white where it is transparent. Raises InputImageError."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if max(image.size) > MAX_SIDE_PX:
                raise InputImageError(f"The image is {image.width}x{image.height} px; {MAX_SIDE_PX} a side is allowed.")
            if getattr(image, "is_animated", False):
                raise InputImageError("The image is animated; only still images are looked at.")
            return _as_seen(image)
    except UnidentifiedImageError as error:
        raise InputImageError("The image is not a PNG, JPEG, WebP or GIF file.") from error
    except BROKEN as error:
        raise InputImageError(f"The image cannot be read: {str(error) or type(error).__name__}.") from error


def _as_seen(image: Image.Image) -> Image.Image:
    ImageOps.exif_transpose(image, in_place=True)
    if not image.has_transparency_data:
        return image.convert("RGB")
    layers = image.convert("RGBA")
    seen = Image.new("RGB", layers.size, "white")
    seen.paste(layers, mask=layers.getchannel("A"))
    return seen
