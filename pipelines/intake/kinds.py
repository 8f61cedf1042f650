"""What a file is, judged by its first bytes alone; names and types that clients claim are not asked."""

from dataclasses import dataclass
from typing import Literal

from pipelines.video.info import VideoError
from pipelines.video.sniffing import PICTURE_BRANDS, sniff

HEAD_BYTES = 4_096  # of a file, that kind_of wants to see

Family = Literal["picture", "video", "other"]


@dataclass(frozen=True, slots=True)
class Kind:
    """What the bytes are, in words for people."""

    family: Family
    words: str
    format: str = ""  # of pictures that we read: jpeg, png or webp


JPEG = Kind("picture", "a JPEG picture", "jpeg")
PNG = Kind("picture", "a PNG picture", "png")
WEBP = Kind("picture", "a WebP picture", "webp")
UNKNOWN = Kind("other", "of no kind that we know")
MARKUP = Kind("other", "a web page or XML")
SVG = Kind("other", "an SVG drawing")
PLAYLIST = Kind("other", "a playlist, which only points to other files")

STARTS: tuple[tuple[bytes, Kind], ...] = (
    (b"\xff\xd8\xff", JPEG),
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"GIF8", Kind("picture", "a GIF")),
    (b"BM", Kind("picture", "a BMP picture")),
    (b"II*\x00", Kind("picture", "a TIFF picture")),
    (b"MM\x00*", Kind("picture", "a TIFF picture")),
    (b"8BPS", Kind("picture", "a Photoshop document")),
    (b"\xff\x0a", Kind("picture", "a JPEG XL picture")),
    (b"\x00\x00\x00\x0cJXL ", Kind("picture", "a JPEG XL picture")),
    (b"\x00\x00\x00\x0cjP  ", Kind("picture", "a JPEG 2000 picture")),
    (b"\x00\x00\x01\x00", Kind("picture", "an icon")),
    (b"%PDF", Kind("other", "a PDF document")),
    (b"PK\x03\x04", Kind("other", "a zip archive")),
    (b"PK\x05\x06", Kind("other", "an empty zip archive")),
    (b"\x1f\x8b", Kind("other", "a gzip archive")),
    (b"7z\xbc\xaf\x27\x1c", Kind("other", "a 7-Zip archive")),
    (b"Rar!\x1a\x07", Kind("other", "a RAR archive")),
    (b"\xfd7zXZ\x00", Kind("other", "an xz archive")),
    (b"BZh", Kind("other", "a bzip2 archive")),
    (b"\x7fELF", Kind("other", "a program")),
    (b"MZ", Kind("other", "a program")),
    (b"#!", Kind("other", "a script")),
)
VIDEOS = {  # by the demuxer that may open them
    "mov": "an MP4 or QuickTime video",
    "matroska": "a Matroska or WebM video",
    "avi": "an AVI video",
    "mpegts": "an MPEG transport stream",
}
TEXT_STARTS: tuple[tuple[bytes, Kind], ...] = (
    (b"#extm3u", PLAYLIST),
    (b"ffconcat", PLAYLIST),
    (b"[playlist]", PLAYLIST),
    (b"<svg", SVG),
    (b"<?xml", MARKUP),
    (b"<!doctype", MARKUP),
    (b"<html", MARKUP),
)


def kind_of(head: bytes) -> Kind:
    """What a file with this beginning is."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WEBP
    if head[4:8] == b"ftyp" and head[8:12] in PICTURE_BRANDS:
        return Kind("picture", "a HEIF or AVIF picture")
    for start, kind in STARTS:
        if head.startswith(start):
            return kind
    try:
        return Kind("video", VIDEOS.get(sniff(head), "a video"))
    except VideoError:
        return _kind_of_text(head)


def _kind_of_text(head: bytes) -> Kind:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, kind in TEXT_STARTS:
        if text.startswith(start):
            return SVG if kind is MARKUP and b"<svg" in text else kind
    is_text = bool(head) and not any(byte < 9 for byte in head)
    return Kind("other", "text") if is_text else UNKNOWN
