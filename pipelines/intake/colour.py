"""Whatever colours a picture is stored in → 8 bits of grey or sRGB, its transparency kept."""

import io

from PIL import Image, ImageCms

GREY_TO_8_BITS = 1 / 256


def in_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """L, LA, RGB or RGBA. A profile that is broken, or meant for another kind of picture, counts as none."""
    image = _in_8_bits(image)
    alpha = image.getchannel("A") if image.mode in {"LA", "RGBA"} else None
    colours = image.convert(image.mode.removesuffix("A"))
    if icc is not None:
        colours = _through(icc, colours)
    colours = colours.convert("RGB") if colours.mode == "CMYK" else colours
    if alpha is not None:
        colours.putalpha(alpha)
    return colours


def _in_8_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return image.point(lambda level: level * GREY_TO_8_BITS).convert("L")
    if image.has_transparency_data:
        return image.convert("LA" if image.mode in {"1", "L", "LA"} else "RGBA")
    return image.convert({"1": "L", "P": "RGB"}.get(image.mode, image.mode))


def _through(icc: bytes, colours: Image.Image) -> Image.Image:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        seen = ImageCms.profileToProfile(colours, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return colours
    assert seen is not None, "only a change in place returns nothing"
    return seen.convert("L") if colours.mode == "L" else seen
