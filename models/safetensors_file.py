"""The safetensors format in plain Python: its header checked to the byte, and files written from pieces of others.

No torch and no numpy: the processes that use this only move bytes. Knows nothing of LoRA.
"""

import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from models.errors import AdapterError

MAX_HEADER_BYTES = 16 * 1024 * 1024  # a LoRA with 5,000 tensors needs about 1 MB
DTYPE_BYTES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}
CHUNK_BYTES = 1024 * 1024
LENGTH = struct.Struct("<Q")
# A zip archive (torch.save since 1.6), and the protocol byte that any older pickle begins with.
PICKLE = re.compile(rb"PK\x03\x04|\x80[\x02-\x05]")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file; `start` and `end` count bytes from the beginning of the data."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def num_bytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself; the tensors lie one behind the other and fill the data exactly."""

    tensors: tuple[TensorInfo, ...]  # in the order of their bytes
    metadata: Mapping[str, str]
    data_start: int  # bytes from the beginning of the file


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor to write: its bytes, or where in another file they are."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | TensorInfo = field(repr=False)

    @property
    def num_bytes(self) -> int:
        return len(self.data) if isinstance(self.data, bytes) else self.data.num_bytes


def read_header(path: Path) -> Header:
    """The header of `path`, or AdapterError naming what is wrong. As strict as the engine's own reader."""
    with path.open("rb") as file:
        start = file.read(LENGTH.size)
        # Some lengths look like the beginning of a pickle; then the JSON that follows tells.
        if PICKLE.match(start) and file.read(1) != b"{":
            raise AdapterError(
                "The file is a pickle (.pt, .ckpt, .bin), which can run code when opened. Convert it to safetensors."
            )
        if len(start) < LENGTH.size:
            raise AdapterError(f"The file has {len(start)} bytes; that is no safetensors file.")
        num_header_bytes = LENGTH.unpack(start)[0]
        num_data_bytes = path.stat().st_size - LENGTH.size - num_header_bytes
        if num_header_bytes > MAX_HEADER_BYTES or num_data_bytes < 0:
            raise AdapterError(
                f"The file is no safetensors file, or cut off: its header would take {num_header_bytes} bytes."
            )
        file.seek(LENGTH.size)
        entries = _parse(file.read(num_header_bytes))
    metadata = _metadata(entries.pop("__metadata__", {}))
    tensors = sorted((_tensor(key, entry) for key, entry in entries.items()), key=lambda t: (t.start, t.end))
    _check_layout(tensors, num_data_bytes)
    return Header(tuple(tensors), metadata, LENGTH.size + num_header_bytes)


def write_file(
    path: Path, pieces: Iterable[Piece], *, source: Path, source_data_start: int, metadata: Mapping[str, str]
) -> None:
    """A new file of `pieces`, whose bytes come from `source` where they are not given. Never holds a whole tensor."""
    # Wide types first, as the format's own writer does, so that every tensor is aligned.
    ordered = sorted(pieces, key=lambda piece: (-DTYPE_BYTES[piece.dtype], piece.key))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for piece in ordered:
        end = offset + piece.num_bytes
        header[piece.key] = {"dtype": piece.dtype, "shape": list(piece.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as target, source.open("rb") as file:
        target.write(LENGTH.pack(len(text)) + text)
        for piece in ordered:
            if isinstance(piece.data, bytes):
                target.write(piece.data)
            else:
                file.seek(source_data_start + piece.data.start)
                _copy(file, target, piece.num_bytes)


def read_tensor(path: Path, header: Header, tensor: TensorInfo) -> bytes:
    """The raw bytes of one (small) tensor."""
    with path.open("rb") as file:
        file.seek(header.data_start + tensor.start)
        return file.read(tensor.num_bytes)


def quote_key(key: str) -> str:
    """A key as it may stand in a message: a stranger chose it."""
    return repr(key if len(key) <= 120 else key[:119] + "…")


def _parse(text: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise AdapterError(
            f"The file is no safetensors file: its header is not JSON ({type(error).__name__})."
        ) from error
    if not isinstance(entries, dict):
        raise AdapterError("The file is no safetensors file: its header is not a JSON object.")
    return entries


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise AdapterError(f"The key {quote_key(twice)} stands in the header twice.")
    return entries


def _metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise AdapterError("The key '__metadata__' must hold texts only.")
    return value


def _tensor(key: str, entry: object) -> TensorInfo:
    named = quote_key(key)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise AdapterError(f"The key {named} is not described by exactly dtype, shape and data_offsets.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise AdapterError(f"The key {named} has dtype {str(dtype)[:20]!r}; known are {', '.join(DTYPE_BYTES)}.")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise AdapterError(f"The key {named} has a shape or data_offsets that are not whole numbers from 0.")
    start, end = offsets
    if end - start != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise AdapterError(f"The key {named} has {end - start} bytes, which is not what {dtype} {shape} takes.")
    return TensorInfo(key, dtype, tuple(shape), start, end)


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**48 for n in value)


def _check_layout(tensors: list[TensorInfo], num_data_bytes: int) -> None:
    """Every byte belongs to exactly one tensor: overlaps, holes and trailing bytes are ways to hide things."""
    if not tensors:
        raise AdapterError("The file holds no tensors.")
    expected = 0
    for tensor in tensors:
        if tensor.start != expected or tensor.end > num_data_bytes:
            raise AdapterError(
                f"The key {quote_key(tensor.key)} lies at bytes {tensor.start} to {tensor.end} of {num_data_bytes}: "
                f"it should begin at {expected} and end inside the file."
            )
        expected = tensor.end
    if expected != num_data_bytes:
        last = quote_key(tensors[-1].key)
        raise AdapterError(f"{num_data_bytes - expected} bytes follow the last tensor, {last}: they belong to no key.")


def _copy(source: BinaryIO, target: BinaryIO, num_bytes: int) -> None:
    while num_bytes:
        chunk = source.read(min(CHUNK_BYTES, num_bytes))
        if not chunk:
            raise AdapterError("The file ended before its last tensor.")
        target.write(chunk)
        num_bytes -= len(chunk)
