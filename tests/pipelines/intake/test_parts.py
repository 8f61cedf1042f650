"""The readers of structure: whatever the bytes, they take them apart or refuse, and what they keep is a picture."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.intake.cleaning import READERS
from pipelines.intake.parts import PictureParts
from pipelines.work import WorkRefused
from tests.pipelines.intake.pictures import SIZE, SRGB_LIKE, decoded, drawing, encoded, exif, secretive_files

FORMATS = tuple(READERS)
FILES = {format: encoded(drawing(), format, exif=exif(6), icc_profile=SRGB_LIKE) for format in FORMATS}
CODES = {"damaged", "truncated", "bad_image"}


def read(format: str, data: bytes) -> PictureParts | str:
    """The parts, or the code of the refusal."""
    try:
        return READERS[format](data)
    except WorkRefused as refused:
        assert refused.code in CODES
        return refused.code


@pytest.mark.parametrize("format", FORMATS)
def test_all_that_is_known_is_found(format: str) -> None:
    parts = READERS[format](FILES[format])
    assert (parts.format, parts.width_px, parts.height_px) == (format, *SIZE)
    assert parts.icc == SRGB_LIKE
    assert parts.exif is not None and b"Mustermann" in parts.exif
    assert parts.has_private_data and parts.is_complete and not parts.is_animated


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_kept_is_the_same_picture_and_nothing_else(format: str) -> None:
    data = secretive_files()[format]
    kept = READERS[format](data).pixels
    assert decoded(kept).tobytes() == decoded(data).tobytes()
    parts = READERS[format](kept)
    assert (parts.exif, parts.icc, parts.has_private_data) == (None, None, False)
    assert parts.pixels == kept


def test_a_profile_in_several_segments_is_put_together_in_their_order() -> None:
    profile = SRGB_LIKE + bytes(range(256)) * 600
    data = encoded(drawing(), "JPEG", icc_profile=profile)
    assert data.count(b"ICC_PROFILE\x00") == 3
    assert READERS["jpeg"](data).icc == profile


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_cut_off_anywhere_is_read_or_refused(format: str) -> None:
    for length in range(12, len(FILES[format]), 7):
        read(format, FILES[format][:length])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FORMATS), st.integers(4, 3_000), st.binary(min_size=1, max_size=8))
def test_damage_anywhere_is_read_or_refused(format: str, at: int, noise: bytes) -> None:
    data = FILES[format]
    read(format, data[:at] + noise + data[at + len(noise) :])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FORMATS), st.binary(max_size=400))
def test_any_bytes_after_the_signature_are_read_or_refused(format: str, rest: bytes) -> None:
    read(format, FILES[format][:12] + rest)
