"""Cleaning: limits before decoding, upright, in sRGB, alpha and losslessness kept, and nothing private left."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, JpegImagePlugin

from pipelines.intake.cleaning import CleanPicture, PictureLimits, clean_picture
from pipelines.intake.png import read_png
from pipelines.work import WorkRefused
from tests.pipelines.intake.pictures import (
    SECRET,
    SIZE,
    SRGB_LIKE,
    SWAPPED,
    decoded,
    drawing,
    encoded,
    exif,
    jpeg_segment,
    png_chunk,
    png_header,
    secretive_files,
    with_jpeg_segments,
    with_png_chunks,
)

LIMITS = PictureLimits(min_image_px=256, max_image_px=4_096, thumbnail_px=128)
FORMATS = ("jpeg", "png", "webp")


def clean(data: bytes, format: str) -> CleanPicture:
    return clean_picture(data, format, LIMITS)


def refusal(data: bytes, format: str) -> WorkRefused:
    with pytest.raises(WorkRefused) as caught:
        clean(data, format)
    return caught.value


def distance(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of two pictures' colours, 0–255."""
    first, second = (np.asarray(image.convert("RGB"), float) for image in (one, other))
    return float(np.abs(first - second).mean())


@pytest.mark.parametrize(
    ("format", "mode"),
    [
        *(("png", mode) for mode in ("RGB", "L", "RGBA", "P", "1", "LA", "I;16")),
        *(("jpeg", mode) for mode in ("RGB", "L", "CMYK")),
        *(("webp", mode) for mode in ("RGB", "RGBA")),
    ],
)
def test_every_kind_of_picture_keeps_its_looks_and_format(format: str, mode: str) -> None:
    image = drawing("L").convert("I;16").point(lambda level: level * 257) if mode == "I;16" else drawing(mode)
    looks = drawing("L") if mode == "I;16" else image
    found = clean(encoded(image, format), format)
    cleaned = decoded(found.cleaned)
    assert (cleaned.format, cleaned.size, found.content_type) == (format.upper(), SIZE, f"image/{format}")
    assert cleaned.mode in {"L", "LA", "RGB", "RGBA"}
    assert distance(cleaned, looks) < 3
    assert distance(decoded(found.thumbnail), looks.convert("RGB").resize((128, 102))) < 6


@pytest.mark.parametrize("options", [{"format": "PNG"}, {"format": "WEBP", "lossless": True}])
def test_what_was_stored_without_loss_stays_exact(options: dict[str, object]) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (256, 256, 4), np.uint8), "RGBA")
    noise.putalpha(200)
    data = encoded(noise, **options)  # type: ignore[arg-type]
    cleaned = decoded(clean(data, str(options["format"]).lower()).cleaned)
    assert np.array_equal(np.asarray(cleaned), np.asarray(noise))


@pytest.mark.parametrize("sampling", [0, 1, 2])
def test_a_jpeg_keeps_its_resolution_of_colour(sampling: int) -> None:
    data = encoded(drawing(), "JPEG", subsampling=sampling)
    assert JpegImagePlugin.get_sampling(decoded(clean(data, "jpeg").cleaned)) == sampling


def test_a_lossy_webp_stays_lossy() -> None:
    assert clean(encoded(drawing(), "WEBP"), "webp").cleaned[12:16] == b"VP8 "


@pytest.mark.parametrize("format", ["png", "webp"])
@pytest.mark.parametrize("is_lossless", [True, False])
def test_alpha_is_kept(format: str, is_lossless: bool) -> None:
    image = drawing("RGBA")
    alpha = Image.linear_gradient("L").resize(SIZE)
    image.putalpha(alpha)
    cleaned = decoded(clean(encoded(image, format, lossless=is_lossless), format).cleaned)
    assert np.abs(np.asarray(cleaned.getchannel("A"), int) - np.asarray(alpha, int)).max() <= 2


def test_a_transparent_colour_of_a_palette_is_kept() -> None:
    palette = drawing().quantize(4)
    data = encoded(palette, transparency=palette.getpixel((0, 0)))
    alpha = np.asarray(decoded(clean(data, "png").cleaned).getchannel("A"))
    assert (alpha[0, 0], alpha[0, -1]) == (0, 255)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_comes_upright(format: str, orientation: int) -> None:
    data = encoded(drawing(), format, exif=exif(orientation))
    found = clean(data, format)
    upright = ImageOps.exif_transpose(decoded(data))
    assert (found.width_px, found.height_px) == upright.size
    assert found.exif.orientation == orientation
    assert distance(decoded(found.cleaned), upright) < 3


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_private_is_left(format: str) -> None:
    data = secretive_files()[format]
    assert SECRET.encode() in data
    found = clean(data, format)
    assert found.had_private_data
    for file in (found.cleaned, found.thumbnail):
        image = decoded(file)
        assert SECRET.encode() not in file
        assert not image.getexif()
        assert not {"exif", "xmp", "comment", "photoshop", "icc_profile", "Author", "Comment"} & set(image.info)


@pytest.mark.parametrize("format", FORMATS)
def test_a_picture_without_secrets_is_said_to_have_none(format: str) -> None:
    assert not clean(encoded(drawing(), format), format).had_private_data
    assert not clean(encoded(drawing(), format, icc_profile=SRGB_LIKE), format).had_private_data


@pytest.mark.parametrize("format", FORMATS)
def test_a_zip_archive_behind_a_picture_is_cut_off(format: str) -> None:
    found = clean(encoded(drawing(), format) + b"PK\x03\x04 and all the rest", format)
    assert b"PK\x03\x04" not in found.cleaned
    assert found.had_private_data


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_colour_profile_is_applied(format: str, orientation: int) -> None:
    data = encoded(drawing(), format, icc_profile=SWAPPED, exif=exif(orientation))
    cleaned = decoded(clean(data, format).cleaned)
    red, green, blue = drawing().split()
    looks = ImageOps.exif_transpose(decoded(encoded(Image.merge("RGB", (green, red, blue)), exif=exif(orientation))))
    assert distance(cleaned, looks) < 8
    assert distance(cleaned, ImageOps.exif_transpose(decoded(data))) > 40


def test_a_profile_leaves_alpha_alone() -> None:
    image = drawing("RGBA")
    image.putalpha(77)
    cleaned = decoded(clean(encoded(image, icc_profile=SWAPPED), "png").cleaned)
    assert cleaned.getchannel("A").getextrema() == (77, 77)


@pytest.mark.parametrize(
    "profile",
    [b"no profile at all", SRGB_LIKE[:200], SRGB_LIKE[:-40] + bytes(40), SRGB_LIKE.replace(b"RGB ", b"GRAY")],
)
@pytest.mark.parametrize("format", FORMATS)
def test_a_broken_profile_counts_as_none(format: str, profile: bytes) -> None:
    cleaned = decoded(clean(encoded(drawing(), format, icc_profile=profile), format).cleaned)
    assert distance(cleaned, drawing()) < 3


@pytest.mark.parametrize("format", FORMATS)
def test_the_sides_are_limited_and_the_message_says_how(format: str) -> None:
    small = refusal(encoded(drawing(size=(300, 255)), format), format)
    assert small.code == "image_too_small"
    assert "300x255" in str(small) and "256 px" in str(small)
    large = refusal(encoded(drawing(size=(4_097, 256)), format), format)
    assert large.code == "image_too_large"
    assert "4097x256" in str(large) and "4096 px" in str(large)


def test_a_header_of_gigapixels_is_refused_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_args: object, **_options: object) -> Image.Image:
        raise RuntimeError("it was opened")

    monkeypatch.setattr(Image, "open", never)
    assert refusal(png_header(100_000, 100_000), "png").code == "image_too_large"
    with pytest.raises(RuntimeError, match="it was opened"):
        clean(png_header(1_000, 1_000), "png")


def test_text_that_unfolds_to_gigabytes_is_never_unpacked() -> None:
    bomb = zlib.compress(bytes(60_000_000), 9)
    chunks = [png_chunk(b"zTXt", b"k\x00\x00" + bomb), png_chunk(b"iTXt", b"k\x00\x01\x00\x00\x00" + bomb)] * 20
    found = clean(with_png_chunks(encoded(drawing()), *chunks), "png")
    assert found.had_private_data
    assert np.array_equal(np.asarray(decoded(found.cleaned)), np.asarray(drawing()))


def test_a_profile_that_unfolds_to_gigabytes_counts_as_none() -> None:
    bomb = png_chunk(b"iCCP", b"k\x00\x00" + zlib.compress(bytes(60_000_000), 9))
    data = with_png_chunks(encoded(drawing()), bomb)
    assert read_png(data).icc is None
    assert distance(decoded(clean(data, "png").cleaned), drawing()) == 0


@pytest.mark.parametrize("format", ["png", "webp"])
def test_an_animation_is_refused_in_clear_words(format: str) -> None:
    data = encoded(drawing(), format, save_all=True, append_images=[drawing().rotate(9)])
    caught = refusal(data, format)
    assert caught.code == "animated_image"
    assert "animation" in str(caught)


def test_a_photograph_with_a_second_picture_behind_it_is_one_photograph() -> None:
    data = encoded(drawing(), "MPO", save_all=True, append_images=[drawing().rotate(180)])
    found = clean(data, "jpeg")
    assert (found.width_px, found.height_px) == SIZE
    assert distance(decoded(found.cleaned), drawing()) < 3


def test_a_jpeg_of_countless_scans_is_refused() -> None:
    data = encoded(drawing(), "JPEG", progressive=True)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    caught = refusal(data[:-2] + last_scan * 200 + b"\xff\xd9", "jpeg")
    assert caught.code == "bad_image"
    assert "100 scans" in str(caught)


def test_a_jpeg_of_countless_segments_is_refused() -> None:
    caught = refusal(with_jpeg_segments(encoded(drawing(), "JPEG"), *[jpeg_segment(0xFE, b"")] * 5_000), "jpeg")
    assert caught.code == "bad_image"
    assert "2000 segments" in str(caught)


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_ends_early_is_called_incomplete(format: str) -> None:
    noise = Image.effect_noise(SIZE, 80).convert("RGB")
    data = encoded(noise, format)
    assert clean(data, format).width_px == SIZE[0]
    for length in (30, len(data) // 3, len(data) * 9 // 10):
        assert refusal(data[:length], format).code == "truncated", length


def test_damage_is_called_damage() -> None:
    png, jpeg, webp = (encoded(drawing(), format) for format in ("PNG", "JPEG", "WEBP"))
    header = png[8:33]
    assert refusal(png[:40] + b"\x00" * 9 + png[49:], "png").code == "damaged"
    assert refusal(png[:33] + header + png[33:], "png").code == "damaged"
    frame_at = jpeg.index(b"\xff\xc0")
    frame = jpeg[frame_at : frame_at + 19]
    assert "two beginnings" in str(refusal(jpeg[:frame_at] + frame + jpeg[frame_at:], "jpeg"))
    assert refusal(jpeg[:20] + b"\xff\xd9", "jpeg").code == "damaged"
    assert refusal(webp[:23] + b"\x00\x00\x00" + webp[26:], "webp").code == "damaged"


def test_a_webp_is_as_large_as_its_pixels_say_whatever_its_frame_claims() -> None:
    image = drawing("RGBA")
    image.putalpha(99)
    data = encoded(image, "WEBP")
    assert data[12:16] == b"VP8X"
    liar = data[:24] + struct.pack("<I", 16_000)[:3] * 2 + data[30:]
    assert (clean(liar, "webp").width_px, clean(liar, "webp").height_px) == SIZE


def test_the_thumbnail_is_small_and_keeps_the_shape() -> None:
    thumbnail = decoded(clean(encoded(drawing(size=(1_200, 300))), "png").thumbnail)
    assert (thumbnail.format, thumbnail.size) == ("WEBP", (128, 32))
