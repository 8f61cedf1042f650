"""EXIF: two facts from both byte orders, and nothing but silence from damage."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.intake.exif import ExifFacts, read_exif
from tests.pipelines.intake.pictures import exif


@pytest.mark.parametrize("prefix", [b"", b"Exif\x00\x00"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_and_date_are_read(prefix: bytes, orientation: int) -> None:
    tiff = exif(orientation, taken_at="2026:05:31 23:59:58").removeprefix(b"Exif\x00\x00")
    assert read_exif(prefix + tiff) == ExifFacts(orientation, "2026-05-31T23:59:58")


def test_big_endian_is_read_too() -> None:
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    assert read_exif(b"MM\x00*" + struct.pack(">IH", 8, 1) + entry + bytes(4)).orientation == 6


@pytest.mark.parametrize(
    "taken_at", ["0000:00:00 00:00:00", "yesterday", "<script>alert(1)</script>", "2026:13:01 00:00:00"]
)
def test_a_date_that_is_none_is_left_out(taken_at: str) -> None:
    assert read_exif(exif(3, taken_at=taken_at)) == ExifFacts(3, None)


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_an_orientation_that_does_not_exist_means_upright(orientation: int) -> None:
    assert read_exif(exif(orientation)).orientation == 1


@pytest.mark.parametrize(
    "data", [None, b"", b"II", b"Exif\x00\x00", b"II*\x00\xff\xff\xff\xff", b"MM\x00*\x00\x00\x00\x08\xff\xff"]
)
def test_nothing_is_read_from_nothing(data: bytes | None) -> None:
    assert read_exif(data) == ExifFacts()


@given(st.sampled_from([b"II", b"MM"]), st.binary(max_size=300))
def test_any_bytes_are_read_without_trouble(order: bytes, rest: bytes) -> None:
    assert 1 <= read_exif(order + rest).orientation <= 8


@given(st.integers(6, 200), st.integers(0, 255))
def test_a_damaged_byte_is_no_trouble(at: int, value: int) -> None:
    damaged = bytearray(exif(6, taken_at="2026:05:31 23:59:58"))
    damaged[at] = value
    assert 1 <= read_exif(bytes(damaged)).orientation <= 8
