"""Walks the outermost boxes of MP4 and Matroska files to see, without a decoder, whether their end is missing."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pipelines.video.info import VideoError

MAX_BOXES = 100_000  # a fragmented MP4 of hours has some ten thousand
MEDIA = {b"mdat", b"moof", b"moov"}  # other boxes may be anything, such as what somebody hung on at the end


def check_index(path: Path, demuxer: str) -> None:
    """Raises VideoError("truncated") where nothing can be read since the end is missing that the index is in."""
    if demuxer == "mov" and not any(kind == b"moov" and is_there for kind, is_there in _mov_boxes(path)):
        raise VideoError(
            "truncated",
            "The video has no index: its file ends before it, as when a transfer broke off. Please send it again.",
        )


def check_whole(path: Path, demuxer: str) -> None:
    """Raises VideoError("truncated") where the file says itself that it was longer once."""
    check_index(path, demuxer)
    is_cut_off = False
    if demuxer == "mov":
        is_cut_off = any(kind in MEDIA and not is_there for kind, is_there in _mov_boxes(path))
    elif demuxer == "matroska":
        is_cut_off = (_segment_end(path) or 0) > path.stat().st_size
    if is_cut_off:
        raise VideoError("truncated", "The video is cut off: its file was longer once. Please send it again.")


def _mov_boxes(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Kind of each box, and whether all of it is there."""
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        start = 0
        for _ in range(MAX_BOXES):
            length, kind = _mov_header(file, start, size_bytes)
            if length < 8:
                return
            start += length
            yield kind, start <= size_bytes
            if start >= size_bytes:
                return


def _mov_header(file: BinaryIO, start: int, size_bytes: int) -> tuple[int, bytes]:
    """Length and kind of the box at `start`; zero where there is none. ISO/IEC 14496-12, 4.2."""
    file.seek(start)
    header = file.read(16)
    if len(header) < 8:
        return 0, b""
    length = int.from_bytes(header[:4])
    if length == 1:
        length = int.from_bytes(header[8:16])
    return length or size_bytes - start, header[4:8]


def _segment_end(path: Path) -> int | None:
    """Where the one segment of a Matroska file ends; None where it does not say. RFC 8794, 4 and 5."""
    with path.open("rb") as file:
        header = file.read(64 * 1024)
    start = header.find(b"\x18\x53\x80\x67") + 4
    if start < 4 or start + 8 > len(header):
        return None
    num_bytes = 9 - header[start].bit_length()
    if num_bytes > 8:
        return None
    unknown = (1 << 7 * num_bytes) - 1  # all ones: it was written live
    length = int.from_bytes(header[start : start + num_bytes]) & unknown
    return None if length == unknown else start + num_bytes + length
