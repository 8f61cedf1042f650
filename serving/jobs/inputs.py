"""Pictures that callers send to start from: judged by their bytes before they are stored. Loads no torch."""

import hashlib
import io
import math
from dataclasses import dataclass, replace

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from configs.settings import ApiSettings
from models.spec import Limits
from pipelines.pictures import UNREADABLE
from pipelines.request import StoredFile
from serving.errors import BadInput

FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}  # as Pillow names them
TURNED = {5, 6, 7, 8}  # EXIF orientations that swap width and height


@dataclass(frozen=True, slots=True)
class InputPicture:
    """The bytes as they came, and what is known of them."""

    data: bytes
    content_type: str
    width_px: int  # as it is looked at: turned the way its EXIF says
    height_px: int
    least_alpha: int  # 0–255, of its most transparent pixel; 255 where there is no alpha channel

    def with_data(self, data: bytes) -> "InputPicture":
        """The same picture in other bytes of its format and size."""
        return replace(self, data=data)

    def stored_at(self, key: str) -> StoredFile:
        return StoredFile(key, hashlib.sha256(self.data).hexdigest())


@dataclass(frozen=True, slots=True)
class EditWish:
    """What an edit adds to an image request; strength None leaves the choice to us."""

    image: InputPicture
    mask: InputPicture | None = None
    strength: float | None = None


def read_picture(param: str, data: bytes, settings: ApiSettings) -> InputPicture:
    """The picture, or BadInput naming `param`. Blocks for as long as decoding takes."""
    if len(data) > settings.max_image_bytes:
        raise BadInput(f"{param} is larger than {settings.max_image_bytes} bytes.", param=param, code="image_too_large")
    try:
        with Image.open(io.BytesIO(data), formats=list(FORMATS)) as image:
            # From the header: a small file that unfolds to gigabytes is never decoded.
            if max(image.size) > settings.max_image_px:
                raise _too_many_pixels(param, image.size, settings)
            if getattr(image, "n_frames", 1) > 1:
                raise BadInput(f"{param} must be a single picture, not an animation.", param=param, code="bad_image")
            image.load()
            width_px, height_px = image.size
            if image.getexif().get(ExifTags.Base.Orientation) in TURNED:
                width_px, height_px = height_px, width_px
            return InputPicture(data, FORMATS[image.format or ""], width_px, height_px, _least_alpha(image))
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(param, None, settings) from error
    except UnidentifiedImageError as error:
        raise BadInput(f"{param} must be a PNG, JPEG or WebP file.", param=param, code="bad_image") from error
    except UNREADABLE as error:
        raise BadInput(f"{param} is damaged or not complete.", param=param, code="bad_image") from error


def read_mask(data: bytes, image: InputPicture, settings: ApiSettings) -> InputPicture:
    """The mask of `image`: as large, and transparent where it is to be painted anew."""
    mask = read_picture("mask", data, settings)
    if (mask.width_px, mask.height_px) != (image.width_px, image.height_px):
        raise BadInput(
            f"mask must be as large as image, {image.width_px}x{image.height_px}; it is "
            f"{mask.width_px}x{mask.height_px}.",
            param="mask",
        )
    if mask.least_alpha == 255:
        raise BadInput(
            "mask must be transparent where image is to be painted anew; it is opaque everywhere, or has no alpha "
            "channel.",
            param="mask",
        )
    return _alpha_alone(mask)


def fit_size(width_px: int, height_px: int, limits: Limits) -> tuple[int, int]:
    """The size closest to a picture's own that the model can make: unchanged where it can, its aspect kept."""
    multiple = limits.side_multiple_px
    lowest = -(-limits.min_side_px // multiple) * multiple
    highest = limits.max_side_px // multiple * multiple
    shrink = min(1.0, highest / max(width_px, height_px), math.sqrt(limits.max_pixels / (width_px * height_px)))
    scale = max(shrink, min(lowest / min(width_px, height_px), highest / max(width_px, height_px)))
    width_px, height_px = (
        min(max(round(side_px * scale / multiple) * multiple, lowest), highest) for side_px in (width_px, height_px)
    )
    while width_px * height_px > limits.max_pixels and max(width_px, height_px) > lowest:
        if width_px >= height_px:
            width_px -= multiple
        else:
            height_px -= multiple
    return width_px, height_px


def _alpha_alone(mask: InputPicture) -> InputPicture:
    """What a mask shows besides its transparency is of no use; it is not kept, so nobody need look at it either."""
    with Image.open(io.BytesIO(mask.data), formats=list(FORMATS)) as image:
        alpha = ImageOps.exif_transpose(image).convert("RGBA").getchannel("A")
    black = Image.new("L", alpha.size)
    black.putalpha(alpha)
    out = io.BytesIO()
    black.save(out, "PNG")
    return replace(mask, data=out.getvalue(), content_type=FORMATS["PNG"])


def _least_alpha(image: Image.Image) -> int:
    if not image.has_transparency_data:
        return 255
    lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
    return int(lowest)  # type: ignore[arg-type]  # one channel, so a number


def _too_many_pixels(param: str, size: tuple[int, int] | None, settings: ApiSettings) -> BadInput:
    found = "" if size is None else f"; it is {size[0]}x{size[1]}"
    return BadInput(
        f"{param} may have sides of at most {settings.max_image_px} px{found}.", param=param, code="image_too_large"
    )
