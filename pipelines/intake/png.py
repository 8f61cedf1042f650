"""PNG files, chunk by chunk: what the pixels need is kept, the rest only looked at."""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from pipelines.intake.parts import PictureParts, cut_off, damaged

SIGNATURE = b"\x89PNG\r\n\x1a\n"
FOR_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
# Says how pixels are meant to look, nothing about people.
HARMLESS = {b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"sBIT", b"bKGD", b"hIST", b"pHYs", b"sPLT", b"mDCV", b"cLLI"}
MAX_ICC_BYTES = 4 * 2**20  # unpacked; those of printing presses have some two million


class Chunk(NamedTuple):
    """One chunk, from its length to its checksum."""

    name: bytes
    data: memoryview
    end: int  # where it ends in the file

    @property
    def body(self) -> bytes:
        return bytes(self.data[8:-4])


def read_png(data: bytes) -> PictureParts:
    """The parts of a PNG file; whatever follows its end is dropped."""
    chunks = list(_chunks(data))
    headers = [chunk.body for chunk in chunks if chunk.name == b"IHDR"]
    if not chunks:
        raise cut_off()
    if chunks[0].name != b"IHDR" or len(headers) != 1 or len(headers[0]) != 13:
        raise damaged("it does not start with its size")
    width_px, height_px = struct.unpack(">II", headers[0][:8])
    is_complete = chunks[-1].name == b"IEND"
    return PictureParts(
        format="png",
        pixels=SIGNATURE + b"".join(chunk.data for chunk in chunks if chunk.name in FOR_PIXELS),
        width_px=width_px,
        height_px=height_px,
        exif=_body(chunks, b"eXIf"),
        icc=_unpack_icc(_body(chunks, b"iCCP")),
        is_animated=any(chunk.name == b"acTL" for chunk in chunks),
        is_lossless=True,
        is_complete=is_complete,
        has_private_data=any(chunk.name not in FOR_PIXELS | HARMLESS for chunk in chunks)
        or (is_complete and chunks[-1].end < len(data)),
    )


def _chunks(data: bytes) -> Iterator[Chunk]:
    """All that are there from start to end."""
    view, position = memoryview(data), len(SIGNATURE)
    while position + 12 <= len(data):
        length, name = struct.unpack(">I4s", view[position : position + 8])
        end = position + 12 + length
        if end > len(data):
            return
        yield Chunk(name, view[position:end], end)
        if name == b"IEND":
            return
        position = end


def _body(chunks: list[Chunk], name: bytes) -> bytes | None:
    return next((chunk.body for chunk in chunks if chunk.name == name), None)


def _unpack_icc(body: bytes | None) -> bytes | None:
    """The profile, or None where there is no sane one: a name, a zero, the method (zero), then zlib's bytes."""
    _, _, packed = (body or b"").partition(b"\x00")
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(packed[1:], MAX_ICC_BYTES)
    except zlib.error:
        return None
    return profile if unpacker.eof else None
