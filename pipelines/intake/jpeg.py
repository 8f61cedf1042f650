"""JPEG files, segment by segment: what the pixels need is kept, the rest only looked at."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from pipelines.intake.parts import PictureParts, cut_off, damaged
from pipelines.work import WorkRefused

# Each scan is a pass over the whole picture; a progressive one has about ten. A few bytes could ask for thousands.
MAX_SCANS = 100
MAX_SEGMENTS = 2_000
SOI, EOI, SOS, COM = 0xD8, 0xD9, 0xDA, 0xFE
APP0, APP1, APP2, APP14, APP15 = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame; the three others hold tables
# 0xFF is stuffed with 0x00 within a scan, and restart marks belong to it.
END_OF_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
JFIF_BYTES = 18  # more of it is a thumbnail
EXIF, ICC = b"Exif\x00\x00", b"ICC_PROFILE\x00"


class Segment(NamedTuple):
    """From its 0xFF on; that of a scan includes what was compressed."""

    marker: int
    data: bytes
    end: int  # where it ends in the file

    @property
    def payload(self) -> bytes:
        return self.data[4:]


def read_jpeg(data: bytes) -> PictureParts:
    """The parts of a JPEG file; whatever follows its end is dropped."""
    segments = list(_segments(data))
    frames = [segment.payload for segment in segments if segment.marker in FRAMES]
    has_scans = any(segment.marker == SOS for segment in segments)
    is_complete = bool(segments) and segments[-1].marker == EOI
    if not frames or not has_scans:
        raise damaged("there are no pixels in it") if is_complete else cut_off()
    if len(frames) > 1:
        raise damaged("it has two beginnings")
    kept = [segment.data for segment in segments if _is_for_pixels(segment)]
    profile = {s.payload[12]: s.payload[14:] for s in segments if _is_icc(s) and len(s.payload) > 14}
    exif = (s.payload for s in segments if s.marker == APP1 and s.payload.startswith(EXIF))
    return PictureParts(
        format="jpeg",
        pixels=b"\xff\xd8" + b"".join(kept),
        width_px=int.from_bytes(frames[0][3:5]),
        height_px=int.from_bytes(frames[0][1:3]),
        exif=next(exif, None),
        icc=b"".join(profile[index] for index in sorted(profile)) or None,
        is_animated=False,
        is_lossless=False,
        is_complete=is_complete,
        has_private_data=any(_is_private(segment) for segment in segments) or (segments[-1].end < len(data)),
    )


def _is_for_pixels(segment: Segment) -> bool:
    """JFIF's and Adobe's own say which colours the numbers mean."""
    is_beside = APP0 <= segment.marker <= APP15 or segment.marker == COM
    return not is_beside or (segment.marker == APP0 and len(segment.data) == JFIF_BYTES) or segment.marker == APP14


def _is_icc(segment: Segment) -> bool:
    return segment.marker == APP2 and segment.payload.startswith(ICC)


def _is_private(segment: Segment) -> bool:
    return not (_is_for_pixels(segment) or _is_icc(segment))


def _segments(data: bytes) -> Iterator[Segment]:
    """All that are there from start to end; other bytes between them are skipped, as every reader does."""
    position, num_segments, num_scans = 2, 0, 0
    while (found := END_OF_SCAN.search(data, position)) is not None:
        marker, start = data[found.start() + 1], found.start()
        if marker == EOI:
            yield Segment(marker, data[start : start + 2], start + 2)
            return
        if marker in {0x01, SOI}:  # stand alone and mean nothing here
            position = found.end()
            continue
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4])
        if end < start + 4 or end > len(data):
            return
        num_segments += 1
        if num_segments > MAX_SEGMENTS:
            raise WorkRefused("bad_image", f"The picture consists of more than {MAX_SEGMENTS} segments.")
        if marker == SOS:
            num_scans += 1
            if num_scans > MAX_SCANS:
                raise WorkRefused("bad_image", f"The picture is stored in more than {MAX_SCANS} scans.")
            following = END_OF_SCAN.search(data, end)
            end = len(data) if following is None else following.start()
        yield Segment(marker, data[start:end], end)
        position = end
