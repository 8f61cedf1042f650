"""What the moderator makes of a file: the picture that people see, or a refusal; never anything else."""

import io
import struct
import zlib

import numpy as np
import pytest
import skimage.data
from PIL import Image

from models.errors import InputImageError
from pipelines.moderation.opening import open_to_look


def file_of(picture: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


def photograph() -> Image.Image:
    return Image.fromarray(skimage.data.chelsea())


def png_that_claims(width_px: int, height_px: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    format = "TIFF" if mode == "CMYK" else "PNG"
    picture = Image.new("I;16", (8, 8)) if mode == "I;16" else photograph().convert(mode)
    data = file_of(picture, "JPEG" if format == "TIFF" else "PNG")
    assert open_to_look(data).mode == "RGB"


def test_a_picture_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    seen = open_to_look(file_of(photograph(), "PNG", exif=exif))
    assert np.array_equal(np.asarray(seen), np.asarray(photograph().transpose(Image.Transpose.ROTATE_270)))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF"])
def test_what_is_transparent_is_seen_on_white(format: str) -> None:
    picture = photograph().convert("RGBA")
    picture.putalpha(0)
    assert open_to_look(file_of(picture, format)).getextrema() == ((255, 255),) * 3


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"this is text",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"PK\x03\x04" + bytes(100),
        b"%PDF-1.7",
        file_of(photograph(), "PNG")[:500],
        file_of(photograph(), "JPEG")[:500],
        file_of(photograph(), "WEBP")[:500],
        file_of(photograph(), "TIFF"),
        file_of(photograph(), "BMP"),
        png_that_claims(100_000, 100_000),
        png_that_claims(9_000, 10),
        png_that_claims(0, 10),
        png_that_claims(500, 500),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(InputImageError, match="The image"):
        open_to_look(data)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_what_moves_is_refused_for_only_its_first_picture_would_be_seen(format: str) -> None:
    moving = file_of(photograph(), format, save_all=True, append_images=[Image.new("RGB", photograph().size, "red")])
    with pytest.raises(InputImageError, match="animated"):
        open_to_look(moving)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_damage_anywhere_is_a_picture_or_a_refusal(format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = file_of(photograph().resize((64, 48)), format, **({} if format == "GIF" else {"exif": exif}))
    rng = np.random.default_rng(3)
    num_refused = 0
    for _ in range(400):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 6):
            data[place] = rng.integers(0, 256)
        try:
            assert open_to_look(bytes(data)).mode == "RGB"
        except InputImageError:
            num_refused += 1
    assert num_refused > 0
