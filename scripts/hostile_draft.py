"""What a hostile file is before it has a name, and the small pieces that such files are put together from."""

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeVar

Purpose = Literal["image", "video"]
Must = Literal["refused", "either"]
Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Draft:
    """The bytes, what they are sent as, and what must come of them; either: a clear refusal or a right result."""

    ending: str
    purpose: Purpose
    must: Must
    data: bytes


@dataclass(frozen=True)
class Whim:
    """What may differ between two files of one kind."""

    turn: int  # 0, 1, …: how many of its kind there are already
    rng: Random
    port: int  # on this machine; nobody may ever call it

    def pick(self, choices: Sequence[Choice]) -> Choice:
        """Another one each turn."""
        return choices[self.turn % len(choices)]

    @property
    def place(self) -> str:
        """What playlists and references point to."""
        at_home = f"127.0.0.1:{self.port}"
        return self.rng.choice(
            ["file:///etc/passwd", f"http://{at_home}/seen", "/etc/passwd", f"tcp://{at_home}", "../../a.ts"]
        )


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_file(
    width_px: int, height_px: int, packed: bytes, *, depth: int = 8, colour: int = 2, interlace: int = 0
) -> bytes:
    """A PNG whose header may say anything; `packed` are its pixels as zlib left them."""
    header = struct.pack(">IIBBBBB", width_px, height_px, depth, colour, 0, 0, interlace)
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def zeros_packed(num_bytes: int) -> bytes:
    """So many zeros as zlib packs them, made without ever holding them."""
    packer, megabyte = zlib.compressobj(9), bytes(2**20)
    parts = [packer.compress(megabyte) for _ in range(num_bytes // 2**20)]
    return b"".join([*parts, packer.compress(bytes(num_bytes % 2**20)), packer.flush()])


def zipped(name: str, data: bytes) -> bytes:
    """An archive of one file, the same every day."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def jpeg_segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def riff_chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def box(name: bytes, body: bytes, *, length: int | None = None) -> bytes:
    """A box of an MP4 file; `length` is what it claims."""
    return struct.pack(">I", 8 + len(body) if length is None else length) + name + body


def ebml(name: bytes, body: bytes, *, length: int | None = None) -> bytes:
    """An element of a Matroska file; `length` is what it claims."""
    return name + (0x01 << 56 | (len(body) if length is None else length)).to_bytes(8) + body


def flip_bits(data: bytes, rng: Random, num_bits: int, *, start: int = 0) -> bytes:
    flipped = bytearray(data)
    for _ in range(num_bits):
        flipped[rng.randrange(start, len(flipped))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def cut(data: bytes, rng: Random, least: float = 0.05, most: float = 0.95) -> bytes:
    return data[: int(len(data) * rng.uniform(least, most))]


def patch(data: bytes, name: bytes, offset: int, value: bytes) -> bytes:
    """Writes `value` so many bytes behind every place where `name` stands."""
    patched, at = bytearray(data), data.find(name)
    if at < 0:
        raise ValueError(f"there is no {name!r} in it")
    while at >= 0:
        patched[at + len(name) + offset : at + len(name) + offset + len(value)] = value
        at = data.find(name, at + 1)
    return bytes(patched)
