"""WebP files, chunk by chunk: what the pixels need is kept, the rest only looked at."""

import struct
from collections.abc import Iterator

from pipelines.intake.parts import PictureParts, cut_off, damaged

HEADER_BYTES = 12  # RIFF, size, WEBP
FOR_PIXELS = {b"VP8X", b"ALPH", b"VP8 ", b"VP8L"}
ALPHA_FLAG = 0x10
START_CODE = b"\x9d\x01\x2a"
MASK_14 = 0x3FFF


def read_webp(data: bytes) -> PictureParts:
    """The parts of a WebP file. What it says of itself as a whole is not believed: the pixels' own header counts."""
    chunks = list(_chunks(data))
    found = {name: body for name, body, _ in reversed(chunks)}  # the first of each name
    bitstream = found.get(b"VP8L") or found.get(b"VP8 ")
    is_animated = b"ANIM" in found or b"ANMF" in found
    if bitstream is None and not is_animated:
        raise cut_off()
    is_lossless = b"VP8L" in found
    size = (0, 0) if bitstream is None else _size(bitstream, is_lossless=is_lossless)
    return PictureParts(
        format="webp",
        pixels=b"" if bitstream is None else _assemble(bitstream, found.get(b"ALPH"), size, is_lossless=is_lossless),
        width_px=size[0],
        height_px=size[1],
        exif=found.get(b"EXIF"),
        icc=found.get(b"ICCP"),
        is_animated=is_animated,
        is_lossless=is_lossless,
        is_complete=True,  # else the chunk with its pixels would not have been found
        has_private_data=chunks[-1][2] < len(data) or bool(found.keys() - FOR_PIXELS - {b"ICCP"}),
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """(name, body, where it ends) of all that are there from start to end, as far as the file says that it goes."""
    position = HEADER_BYTES
    file_end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while position + 8 <= file_end:
        name, length = struct.unpack("<4sI", data[position : position + 8])
        end = position + 8 + length
        if end > len(data):
            return
        yield name, data[position + 8 : end], min(end + length % 2, len(data))
        position = end + length % 2


def _size(bitstream: bytes, *, is_lossless: bool) -> tuple[int, int]:
    if is_lossless:
        if len(bitstream) < 5 or bitstream[0] != 0x2F:
            raise damaged("its pixels do not start as they should")
        bits = int.from_bytes(bitstream[1:5], "little")
        return (bits & MASK_14) + 1, (bits >> 14 & MASK_14) + 1
    if len(bitstream) < 10 or bitstream[3:6] != START_CODE:
        raise damaged("its pixels do not start as they should")
    width_px, height_px = struct.unpack("<HH", bitstream[6:10])
    return width_px & MASK_14, height_px & MASK_14


def _assemble(bitstream: bytes, alpha: bytes | None, size: tuple[int, int], *, is_lossless: bool) -> bytes:
    chunks = _chunk(b"VP8L" if is_lossless else b"VP8 ", bitstream)
    if alpha is not None and not is_lossless:
        canvas = b"".join((side_px - 1).to_bytes(3, "little") for side_px in size)
        chunks = _chunk(b"VP8X", bytes([ALPHA_FLAG, 0, 0, 0]) + canvas) + _chunk(b"ALPH", alpha) + chunks
    return _chunk(b"RIFF", b"WEBP" + chunks)


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
