"""Pictures to start from come upright, in RGB, in the size asked for; what cannot be used is refused by name."""

import io

import numpy as np
import pytest
from PIL import Image

from models.errors import InputImageError
from pipelines.pictures import MAX_SIDE_PX, open_mask, open_picture

SIZE = {"width_px": 16, "height_px": 8}
ORIENTATION = 0x0112  # the EXIF tag


def as_bytes(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def half_and_half(mode: str, left: object, right: object) -> Image.Image:
    image = Image.new(mode, (32, 16), left)
    image.paste(right, (16, 0, 32, 16))
    return image


@pytest.mark.parametrize(
    ("format", "mode"),
    [
        *(("PNG", mode) for mode in ("RGB", "L", "RGBA", "P", "1", "LA", "I;16")),
        *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
    ],
)
def test_every_kind_of_picture_becomes_rgb_in_the_size_asked_for(format: str, mode: str) -> None:
    data = as_bytes(half_and_half("RGB", "white", "black").convert(mode), format)
    picture = open_picture(data, **SIZE)
    assert (picture.mode, picture.size) == ("RGB", (16, 8))
    pixels = np.asarray(picture)
    assert pixels[:, :4].min() > 200
    assert pixels[:, -4:].max() < 55


def test_what_is_transparent_becomes_white() -> None:
    pixels = np.asarray(open_picture(as_bytes(half_and_half("RGBA", (255, 0, 0, 0), (255, 0, 0, 255))), **SIZE))
    assert pixels[4, 2].tolist() == [255, 255, 255]
    assert pixels[4, 13].tolist() == [255, 0, 0]


def test_a_picture_taken_sideways_is_put_upright() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # turn right by 90° to see it upright
    lying = half_and_half("RGB", "white", "black")
    pixels = np.asarray(open_picture(as_bytes(lying, "JPEG", exif=exif), width_px=8, height_px=16)).mean(axis=2)
    assert pixels[:6].min() > 200
    assert pixels[-6:].max() < 55


def test_the_mask_is_white_where_its_file_is_transparent() -> None:
    mask = open_mask(as_bytes(half_and_half("RGBA", (9, 9, 9, 0), (9, 9, 9, 255))), **SIZE)
    assert (mask.mode, mask.size) == ("L", (16, 8))
    pixels = np.asarray(mask)
    assert set(pixels[:, :8].flat) == {255}
    assert set(pixels[:, 8:].flat) == {0}


def test_a_palette_with_one_transparent_colour_is_a_mask_too() -> None:
    palette = half_and_half("RGB", "white", "black").convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    transparent = palette.getpixel((0, 0))
    pixels = np.asarray(open_mask(as_bytes(palette, transparency=transparent), **SIZE))
    assert pixels[4, 2] == 255
    assert pixels[4, 13] == 0


def test_a_mask_without_transparency_is_refused() -> None:
    with pytest.raises(InputImageError, match="no transparency"):
        open_mask(as_bytes(Image.new("RGB", (8, 8))), **SIZE)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a not a picture that is taken",
        as_bytes(half_and_half("RGB", "white", "black"))[:60],
        as_bytes(half_and_half("RGB", "white", "black"), "JPEG")[:-300],
        as_bytes(Image.new("RGB", (8, 8)), "BMP"),
    ],
    ids=["nothing", "text", "half a PNG", "half a JPEG", "a BMP"],
)
def test_what_is_no_picture_is_refused_with_a_code(data: bytes) -> None:
    with pytest.raises(InputImageError, match="image cannot be read") as caught:
        open_picture(data, **SIZE)
    assert caught.value.code == "bad_image"


def test_a_picture_too_large_is_refused_before_it_is_decoded() -> None:
    data = as_bytes(Image.new("1", (MAX_SIDE_PX + 1, 1)))
    with pytest.raises(InputImageError, match=f"{MAX_SIDE_PX} a side is allowed"):
        open_picture(data, **SIZE)
