"""Pictures to start from: what is taken, what is refused and why, and the size that is made of them."""

import io
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from configs.settings import ApiSettings
from models.catalog import load_catalog
from models.spec import Limits
from serving.errors import BadInput
from serving.jobs.inputs import InputPicture, fit_size, read_mask, read_picture
from tests.serving.api.conftest import mask_bytes, picture_bytes

SETTINGS = ApiSettings()
CATALOG = load_catalog()


def refusal(data: bytes, settings: ApiSettings = SETTINGS) -> BadInput:
    with pytest.raises(BadInput) as caught:
        read_picture("image", data, settings)
    assert caught.value.param == "image"
    return caught.value


def png_header(width_px: int, height_px: int) -> bytes:
    """A PNG of some bytes that promises a size; what it unfolds to is never seen."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)), (b"IDAT", b"x"), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(1, 1), (64, 96), (333, 7)])
def test_a_picture_is_known_by_its_bytes(format: str, size: tuple[int, int]) -> None:
    data = picture_bytes(*size, format=format)
    assert read_picture("image", data, SETTINGS) == InputPicture(data, f"image/{format.lower()}", *size, 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_kind_of_pixel_is_taken(mode: str) -> None:
    assert read_picture("image", picture_bytes(8, 8, mode=mode, color=0), SETTINGS).width_px == 8


def test_a_photo_that_lies_on_its_side_is_measured_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.new("RGB", (40, 20)).save(out, "JPEG", exif=exif)
    picture = read_picture("image", out.getvalue(), SETTINGS)
    assert (picture.width_px, picture.height_px) == (20, 40)


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_refused(format: str) -> None:
    assert "PNG, JPEG or WebP" in refusal(picture_bytes(format=format)).message


@pytest.mark.parametrize("data", [b"", b"x", b"\x89PNG\r\n\x1a\n", b"<svg/>", b"%PDF-1.4", b"RIFF\x00\x00\x00\x00WEBP"])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    assert refusal(data).code == "bad_image"


def test_colours_by_number_without_their_palette_are_refused() -> None:
    data = picture_bytes(8, 8, mode="P", color=0)
    at = data.index(b"PLTE") - 4
    end = at + 12 + int.from_bytes(data[at : at + 4])
    assert refusal(data[:at] + data[end:]).code == "bad_image"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_picture_that_broke_off_is_refused(format: str, share: float) -> None:
    noise = Image.effect_noise((64, 64), 90)
    out = io.BytesIO()
    noise.save(out, format)
    assert refusal(out.getvalue()[: int(len(out.getvalue()) * share)]).code == "bad_image"


@given(data=st.data())
def test_damage_is_a_refusal_or_a_picture_and_never_another_error(data: st.DataObject) -> None:
    original = bytearray(picture_bytes(16, 16, format=data.draw(st.sampled_from(["PNG", "JPEG", "WEBP"]))))
    for _ in range(data.draw(st.integers(1, 8))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert read_picture("image", bytes(original), SETTINGS).width_px <= SETTINGS.max_image_px
    except BadInput as error:
        assert error.param == "image"


@pytest.mark.parametrize("size", [(4_097, 1), (1, 4_097), (12_000, 12_000), (65_535, 65_535), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    assert refusal(png_header(*size)).code in {"image_too_large", "bad_image"}
    assert max(size) > 20_000 or "4096" in refusal(png_header(*size)).message


def test_a_text_that_unfolds_to_gigabytes_is_refused() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("x", "y" * 70_000_000, zip=True)
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG", pnginfo=info)
    assert len(out.getvalue()) < 100_000
    assert refusal(out.getvalue()).code == "bad_image"


def test_a_large_file_is_refused_before_it_is_looked_at() -> None:
    settings = ApiSettings(max_image_bytes=1_000)
    assert refusal(b"x" * 1_001, settings).code == "image_too_large"


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_an_animation_is_refused(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    out = io.BytesIO()
    frames[0].save(out, format, save_all=True, append_images=frames[1:])
    assert "animation" in refusal(out.getvalue()).message


def test_a_mask_is_transparent_somewhere_and_as_large_as_the_picture() -> None:
    image = read_picture("image", picture_bytes(64, 32), SETTINGS)
    assert read_mask(mask_bytes(64, 32), image, SETTINGS).least_alpha == 0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (mask_bytes(32, 64), "64x32"),
        (picture_bytes(64, 32), "opaque everywhere"),
        (picture_bytes(64, 32, mode="L", color=0), "opaque everywhere"),
        (picture_bytes(64, 32, mode="RGBA", color=(0, 0, 0, 255)), "opaque everywhere"),
        (b"x", "PNG, JPEG or WebP"),
    ],
)
def test_what_is_no_mask_is_refused_with_the_reason(data: bytes, words: str) -> None:
    image = read_picture("image", picture_bytes(64, 32), SETTINGS)
    with pytest.raises(BadInput, match=words) as caught:
        read_mask(data, image, SETTINGS)
    assert caught.value.param == "mask"


def test_a_mask_with_a_transparent_colour_of_its_palette_is_one() -> None:
    mask = Image.new("P", (8, 8), 0)
    out = io.BytesIO()
    mask.save(out, "PNG", transparency=0)
    image = read_picture("image", picture_bytes(8, 8), SETTINGS)
    assert read_mask(out.getvalue(), image, SETTINGS).least_alpha == 0


sides_px = st.integers(1, 4_096)


@given(model=st.sampled_from(sorted(CATALOG)), width_px=sides_px, height_px=sides_px)
def test_a_fitted_size_is_always_one_the_model_can_make(model: str, width_px: int, height_px: int) -> None:
    limits = CATALOG[model].limits
    sides = fit_size(width_px, height_px, limits)
    assert all(limits.min_side_px <= side <= limits.max_side_px for side in sides)
    assert all(side % limits.side_multiple_px == 0 for side in sides)
    assert sides[0] * sides[1] <= limits.max_pixels


@given(model=st.sampled_from(sorted(CATALOG)), data=st.data())
def test_a_size_that_the_model_can_make_is_not_changed(model: str, data: st.DataObject) -> None:
    limits = CATALOG[model].limits
    sides = st.integers(limits.min_side_px, limits.max_side_px).map(
        lambda side: side // limits.side_multiple_px * limits.side_multiple_px
    )
    width_px, height_px = (
        data.draw(sides.filter(lambda s: s >= limits.min_side_px)),
        data.draw(sides.filter(lambda s: s >= limits.min_side_px)),
    )
    if width_px * height_px <= limits.max_pixels:
        assert fit_size(width_px, height_px, limits) == (width_px, height_px)


@given(width_px=sides_px, height_px=sides_px)
def test_turning_a_picture_turns_its_fitted_size(width_px: int, height_px: int) -> None:
    limits = CATALOG["emoji-3d"].limits
    upright = fit_size(width_px, height_px, limits)
    on_its_side = fit_size(height_px, width_px, limits)
    # Where rounding leaves too many pixels, one side gives way first: by one multiple at most.
    assert all(abs(a - b) <= limits.side_multiple_px for a, b in zip(upright, on_its_side[::-1], strict=True))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), (64, 64)),
        ((100, 50), (128, 64)),
        ((1000, 1000), (256, 256)),
        ((1920, 1080), (256, 144)),
        ((3, 9), (64, 192)),
    ],
)
def test_the_aspect_is_kept(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fit_size(*size, CATALOG["emoji-3d"].limits) == expected


def test_a_ribbon_gets_the_nearest_that_fits() -> None:
    limits: Any = Limits(min_side_px=64, max_side_px=256, side_multiple_px=8, max_pixels=65_536)
    assert fit_size(4_000, 10, limits) == (256, 64)
