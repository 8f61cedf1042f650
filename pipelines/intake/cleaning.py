"""A picture as somebody sent it → the same picture, upright, in sRGB, with nothing in its file but pixels."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image, JpegImagePlugin

from pipelines.intake.colour import in_srgb
from pipelines.intake.exif import ExifFacts, read_exif
from pipelines.intake.jpeg import read_jpeg
from pipelines.intake.parts import PictureFormat, PictureParts, cut_off, damaged
from pipelines.intake.png import read_png
from pipelines.intake.webp import read_webp
from pipelines.pictures import UNREADABLE
from pipelines.request import CONTENT_TYPES
from pipelines.work import WorkRefused

READERS: dict[str, Callable[[bytes], PictureParts]] = {"jpeg": read_jpeg, "png": read_png, "webp": read_webp}
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUALITY = 95  # of what was lossy already: the second loss is not seen
THUMBNAIL_QUALITY = 80


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What is accepted, and how large a thumbnail is made."""

    min_image_px: int
    max_image_px: int
    thumbnail_px: int


@dataclass(frozen=True, slots=True)
class CleanPicture:
    """What became of a picture."""

    cleaned: bytes
    content_type: str
    thumbnail: bytes  # WebP
    width_px: int  # as it is looked at
    height_px: int
    exif: ExifFacts
    had_private_data: bool


def clean_picture(data: bytes, format: str, limits: PictureLimits) -> CleanPicture:
    """Raises WorkRefused where it is no single picture within the limits; its size is judged before it is decoded."""
    parts = READERS[format](data)
    _check(parts, limits)
    exif = read_exif(parts.exif)
    image, sampling = _decode(parts)
    if exif.orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[exif.orientation])
    cleaned = _encode(image, parts, sampling)
    return CleanPicture(
        cleaned=cleaned,
        content_type=CONTENT_TYPES[parts.format],
        thumbnail=_thumbnail(image, limits.thumbnail_px),
        width_px=image.width,
        height_px=image.height,
        exif=exif,
        had_private_data=parts.has_private_data,
    )


def _check(parts: PictureParts, limits: PictureLimits) -> None:
    if parts.is_animated:
        raise WorkRefused("animated_image", "The picture is an animation; single pictures are accepted.")
    size = f"The picture is {parts.width_px}x{parts.height_px} px"
    if max(parts.width_px, parts.height_px) > limits.max_image_px:
        raise WorkRefused("image_too_large", f"{size}; at most {limits.max_image_px} px a side are accepted.")
    if min(parts.width_px, parts.height_px) < limits.min_image_px:
        raise WorkRefused("image_too_small", f"{size}; at least {limits.min_image_px} px a side are needed.")


def _decode(parts: PictureParts) -> tuple[Image.Image, int]:
    """The picture in sRGB, and how a JPEG thins out its colours, as Pillow counts it."""
    try:
        with Image.open(io.BytesIO(parts.pixels), formats=[parts.format.upper()]) as stored:
            if stored.size != (parts.width_px, parts.height_px):
                raise damaged("it states two sizes")
            stored.load()
            return in_srgb(stored, parts.icc), JpegImagePlugin.get_sampling(stored)
    except Image.DecompressionBombError as error:  # only where the limits allow more than Pillow does
        num_pixels = parts.width_px * parts.height_px
        raise WorkRefused("image_too_large", f"The picture has {num_pixels} pixels, too many to decode.") from error
    except UNREADABLE as error:
        raise (damaged("it cannot be decoded") if parts.is_complete else cut_off()) from error


def _encode(image: Image.Image, parts: PictureParts, sampling: int) -> bytes:
    options: dict[PictureFormat, dict[str, Any]] = {
        "jpeg": {"quality": QUALITY, "subsampling": max(0, sampling)},
        "png": {},
        "webp": {"quality": QUALITY, "lossless": parts.is_lossless},
    }
    file = io.BytesIO()
    image.save(file, parts.format, **options[parts.format])
    return file.getvalue()


def _thumbnail(image: Image.Image, side_px: int) -> bytes:
    small = image.copy()
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "webp", quality=THUMBNAIL_QUALITY)
    return file.getvalue()
