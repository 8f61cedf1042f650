"""Hostile files: the same for the same seed, every kind in turn, and a manifest that says what must come of each."""

import hashlib
import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from configs.settings import PROJECT_DIR

NUM_KINDS, COUNT = 60, 70


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(PROJECT_DIR / "scripts"))
    yield import_module("hostile_files")
    sys.path.remove(str(PROJECT_DIR / "scripts"))


@pytest.fixture(scope="module")
def folder(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    script.main([str(folder), "--count", str(COUNT), "--seed", "3", "--port", "4711"])
    return folder


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_same_seed_makes_the_same_files(script: ModuleType, folder: Path, tmp_path: Path) -> None:
    script.main([str(tmp_path), "--count", str(COUNT), "--seed", "3", "--port", "4711"])
    assert hashes(tmp_path) == hashes(folder)


def test_another_seed_makes_others(script: ModuleType, folder: Path, tmp_path: Path) -> None:
    script.main([str(tmp_path), "--count", "1", "--seed", "4"])
    name = "000-truncated-picture.jpg"
    assert hashes(tmp_path)[name] != hashes(folder)[name]


def test_the_manifest_names_every_file_and_every_kind_in_turn(script: ModuleType, folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    files = manifest["files"]
    assert (manifest["seed"], manifest["port"], len(files)) == (3, 4711, COUNT)
    assert {file["name"] for file in files} | {"manifest.json"} == {path.name for path in folder.iterdir()}
    assert [file["kind"] for file in files] == [*script.KINDS, *script.KINDS][:COUNT]
    assert len(script.KINDS) == NUM_KINDS
    assert {file["must"] for file in files} == {"refused", "either"}
    assert {file["purpose"] for file in files} == {"image", "video"}


def test_the_port_is_in_the_bait(folder: Path) -> None:
    assert any(b"127.0.0.1:4711" in path.read_bytes() for path in folder.iterdir())


def test_a_table_counts_them_by_kind(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.main([str(tmp_path), "--count", "3"])
    printed = capsys.readouterr().out
    assert "3 hostile files" in printed
    assert "truncated picture" in printed
