"""Files are told apart by their bytes."""

import zipfile
from io import BytesIO

import pytest

from pipelines.intake.kinds import UNKNOWN, kind_of
from tests.pipelines.intake.pictures import drawing, encoded


def zipped() -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "hello")
    return file.getvalue()


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("JPEG", "jpeg"),
        ("PNG", "png"),
        ("WEBP", "webp"),
        ("GIF", ""),
        ("BMP", ""),
        ("TIFF", ""),
        ("AVIF", ""),
        ("ICO", ""),
    ],
)
def test_pictures_are_known_and_three_formats_are_read(format: str, expected: str) -> None:
    kind = kind_of(encoded(drawing(), format))
    assert (kind.family, kind.format) == ("picture", expected)
    assert kind.words.startswith(("a ", "an "))


@pytest.mark.parametrize(
    "head",
    [
        b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00",
        b"\x00\x00\x00\x14ftypqt  ",
        b"\x00\x00\x10\x00moov",
        b"\x00\x00\x00\x08wide\x00\x00\x10\x00mdat",
        b"\x1aE\xdf\xa3\x9fB\x86\x81\x01",
        b"RIFF\x00\x00\x01\x00AVI LIST",
        b"OggS\x00\x02",
        b"FLV\x01\x05",
        b"\x00\x00\x01\xba\x44",
        (b"G" + bytes(187)) * 5,
    ],
)
def test_videos_are_known(head: bytes) -> None:
    assert kind_of(head).family == "video"


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (zipped(), "zip"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"#EXTM3U\n#EXT-X-VERSION:3\n", "playlist"),
        (b"\xef\xbb\xbf  #EXTM3U\n", "playlist"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "playlist"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'<?xml version="1.0"?>\n<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>\n<svg>&x;</svg>', "SVG"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"Dear all,\nthis is not a video.\n", "text"),
        (b"#!/bin/sh\nrm -rf /\n", "script"),
        (b"\x7fELF\x02\x01", "program"),
        (b"RIFF\x00\x00\x01\x00WAVEfmt ", "no kind"),
    ],
)
def test_what_is_neither_is_named(head: bytes, words: str) -> None:
    kind = kind_of(head)
    assert kind.family == "other"
    assert words in kind.words


@pytest.mark.parametrize("head", [b"", b"\x00", bytes(4_096), b"\x00\x01\x02\x03 nothing known"])
def test_what_nobody_knows_is_unknown(head: bytes) -> None:
    assert kind_of(head) == UNKNOWN
