"""The format's reader: what the true writer writes is read, and each kind of damage is refused by name."""

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, load_file, save_file

from models.errors import AdapterError
from models.safetensors_file import MAX_HEADER_BYTES, Piece, read_header, read_tensor, write_file
from tests.models.lora_bytes import lora_bytes, peft_tensors, raw_file


def entry(*offsets: int, dtype: str = "F32", shape: tuple[Any, ...] = (1,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def refusal(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(AdapterError) as caught:
        read_header(path)
    return str(caught.value)


def zip_of(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", data)
    return buffer.getvalue()


def test_what_the_formats_own_writer_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    tensors = peft_tensors() | {"x.alpha": np.array(4.0, np.float32)}
    save_file(tensors, path, metadata={"who": "me"})
    header = read_header(path)
    assert {t.key: (t.dtype, t.shape) for t in header.tensors} == {
        key: ({"float16": "F16", "float32": "F32"}[array.dtype.name], array.shape) for key, array in tensors.items()
    }
    assert header.metadata == {"who": "me"}
    assert all(read_tensor(path, header, t) == tensors[t.key].tobytes() for t in header.tensors)


DAMAGED = {
    "nothing at all": (b"", "0 bytes"),
    "a few bytes": (b"abc", "3 bytes"),
    "a page of the web": (b"<!DOCTYPE html><html></html>", "no safetensors file"),
    "a length beyond the end": (raw_file({"a": entry(0, 4)}, b"\0" * 4)[:20], "cut off"),
    "a length beyond all measure": ((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b" " * 64, "header would take"),
    "a header that is no JSON": (raw_file(b"{nope"), "not JSON"),
    "a header that is no UTF-8": (raw_file(b'{"\xff": 1}'), "not JSON"),
    "a header nested without end": (raw_file(b"[" * 200_000), "not JSON"),
    "a list for a header": (raw_file([]), "not a JSON object"),
    "no tensors": (raw_file({}), "no tensors"),
    "a key twice": (raw_file(b'{"a": 1, "a": 2}'), "'a' stands in the header twice"),
    "metadata that is no text": (raw_file({"__metadata__": {"a": 1}, "b": entry(0, 4)}, b"\0" * 4), "__metadata__"),
    "a field too few": (raw_file({"a": {"dtype": "F32", "shape": [1]}}), "'a' is not described"),
    "a field too many": (raw_file({"a": entry(0, 4) | {"run": "me"}}, b"\0" * 4), "'a' is not described"),
    "whole numbers for weights": (raw_file({"a": entry(0, 4, dtype="I32")}, b"\0" * 4), "'a' has dtype 'I32'"),
    "no dtype": (raw_file({"a": entry(0, 4) | {"dtype": 3}}, b"\0" * 4), "'a' has dtype '3'"),
    "a negative side": (raw_file({"a": entry(0, 4, shape=(-1, -1))}, b"\0" * 4), "'a' has a shape"),
    "a side of true": (raw_file({"a": entry(0, 4, shape=(True,))}, b"\0" * 4), "'a' has a shape"),
    "a fraction of a side": (raw_file({"a": entry(0, 4, shape=(1.0,))}, b"\0" * 4), "'a' has a shape"),
    "one offset": (raw_file({"a": entry(0)}, b"\0" * 4), "'a' has a shape or data_offsets"),
    "backward offsets": (raw_file({"a": entry(4, 0)}, b"\0" * 4), "'a' has -4 bytes"),
    "a shape of another size": (raw_file({"a": entry(0, 4, shape=(2,))}, b"\0" * 4), "'a' has 4 bytes"),
    "bytes outside": (raw_file({"a": entry(0, 4)}, b"\0" * 3), "'a' lies at bytes 0 to 4 of 3"),
    "bytes shared": (raw_file({"a": entry(0, 4), "b": entry(2, 6)}, b"\0" * 6), "'b' lies at bytes 2 to 6"),
    "a hole": (raw_file({"a": entry(0, 4), "b": entry(8, 12)}, b"\0" * 12), "'b' lies at bytes 8 to 12"),
    "something behind": (raw_file({"a": entry(0, 4)}, b"\0" * 4 + b"MZ"), "2 bytes follow the last tensor, 'a'"),
    "a cut end": (lora_bytes()[:-1], "of"),
    "a pickle": (pickle.dumps({"a": 1}), "pickle (.pt, .ckpt, .bin)"),
    "a pickle in a zip": (zip_of(pickle.dumps({"a": 1})), "Convert it to safetensors"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, what: str) -> None:
    data, told = DAMAGED[what]
    assert told in refusal(tmp_path, data)


def test_a_hostile_key_is_told_shortly_and_without_control_characters(tmp_path: Path) -> None:
    message = refusal(tmp_path, raw_file({"\x1b[31m" + "k" * 10_000: entry(0, 4, dtype="F8_E5M2")}, b"\0" * 4))
    assert len(message) < 300
    assert "\x1b" not in message


def test_a_written_file_is_one_that_the_formats_own_reader_takes(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    tensors = {"odd": np.arange(3, dtype=np.float16), "wide": np.arange(2, dtype=np.float64)}
    save_file(tensors, source)
    header = read_header(source)
    pieces = [Piece(f"new.{t.key}", t.dtype, t.shape, t) for t in header.tensors]
    pieces.append(Piece("one", "F32", (), np.array(1.5, np.float32).tobytes()))
    write_file(target, pieces, source=source, source_data_start=header.data_start, metadata={"ü": "☀"})
    loaded = load_file(target)
    assert loaded["one"] == 1.5
    assert all((loaded[f"new.{key}"] == array).all() for key, array in tensors.items())
    assert load(target.read_bytes()).keys() == loaded.keys()
    assert read_header(target).metadata == {"ü": "☀"}
    offsets = {t.key: t.start for t in read_header(target).tensors}
    assert offsets["new.wide"] % 8 == offsets["one"] % 4 == 0


@pytest.mark.parametrize("num_header_bytes", [0x0280, 0x0380, 0x0480, 0x0580])
def test_a_length_that_looks_like_a_pickle_is_still_a_length(tmp_path: Path, num_header_bytes: int) -> None:
    text = json.dumps({"a": entry(0, 4)}).encode().ljust(num_header_bytes)
    (tmp_path / "file").write_bytes(raw_file(text, b"\0" * 4))
    assert [t.key for t in read_header(tmp_path / "file").tensors] == ["a"]
