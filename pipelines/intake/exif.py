"""The two facts of EXIF that we use; nothing else is unpacked, since many entries may point to the same large bytes."""

import struct
from dataclasses import dataclass
from datetime import datetime

ORIENTATION, EXIF_FOLDER, DATE_TIME_ORIGINAL = 0x0112, 0x8769, 0x9003
DATE_BYTES = 19  # 2026:05:31 23:59:59
ENTRY_BYTES = 12
MAX_ENTRIES = 512  # of a folder that are looked at


@dataclass(frozen=True, slots=True)
class ExifFacts:
    """How to turn the picture, as EXIF counts it (1: not at all), and when it was taken, in the camera's own time."""

    orientation: int = 1
    taken_at: str | None = None  # ISO 8601 without a time zone


def read_exif(data: bytes | None) -> ExifFacts:
    """What can be read; damage counts as nothing said."""
    tiff = (data or b"").removeprefix(b"Exif\x00\x00")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return ExifFacts()
    root = _entries(tiff, _offset(tiff[4:8], order), order)
    (orientation,) = struct.unpack(order + "H", root.get(ORIENTATION, bytes(4))[:2])
    folder = _entries(tiff, _offset(root.get(EXIF_FOLDER, bytes(4)), order), order)
    date_at = _offset(folder.get(DATE_TIME_ORIGINAL, bytes(4)), order)
    return ExifFacts(orientation if 1 <= orientation <= 8 else 1, _date(tiff[date_at : date_at + DATE_BYTES]))


def _offset(value: bytes, order: str) -> int:
    return int(struct.unpack(order + "I", value)[0])


def _entries(tiff: bytes, at: int, order: str) -> dict[int, bytes]:
    """The four bytes of each entry's value, or of where it is."""
    if not 8 <= at <= len(tiff) - 2:
        return {}
    (num_entries,) = struct.unpack_from(order + "H", tiff, at)
    starts = range(at + 2, at + 2 + min(num_entries, MAX_ENTRIES) * ENTRY_BYTES, ENTRY_BYTES)
    return {
        struct.unpack_from(order + "H", tiff, start)[0]: tiff[start + 8 : start + ENTRY_BYTES]
        for start in starts
        if start + ENTRY_BYTES <= len(tiff)
    }


def _date(text: bytes) -> str | None:
    try:
        return datetime.strptime(text.decode("ascii"), "%Y:%m:%d %H:%M:%S").isoformat()
    except ValueError:  # UnicodeDecodeError is one
        return None
