"""Adapter files come from the store once, whole, and leave the disk oldest first."""

import hashlib
import mmap
import os
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from models.adapter_shelf import GRACE_S, STALE_PART_S, AdapterShelf
from models.errors import AdapterError, AdapterGone, BlobError, BlobNotFound


class Blobs:
    """An object store in memory that counts what it is asked."""

    def __init__(self, **objects: bytes) -> None:
        self.objects = objects
        self.asked: list[str] = []

    def get(self, key: str) -> bytes:
        self.asked.append(key)
        if key not in self.objects:
            raise BlobNotFound(key)
        return self.objects[key]


class Down:
    def get(self, key: str) -> bytes:
        raise BlobError("the store does not answer")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def age(path: Path, age_s: float) -> None:
    os.utime(path, (time.time() - age_s, time.time() - age_s))


def test_a_file_is_fetched_once_and_then_taken_from_the_shelf(tmp_path: Path) -> None:
    blobs = Blobs(a=b"weights")
    shelf = AdapterShelf(blobs, tmp_path / "shelf", 1_000)
    first = shelf.fetch("a", sha256(b"weights"))
    again = AdapterShelf(blobs, tmp_path / "shelf", 1_000).fetch("a", sha256(b"weights"))
    assert first == again
    assert first.read_bytes() == b"weights"
    assert blobs.asked == ["a"]


def test_a_damaged_copy_on_disk_is_replaced(tmp_path: Path) -> None:
    shelf = AdapterShelf(Blobs(a=b"weights"), tmp_path, 1_000)
    path = shelf.fetch("a", sha256(b"weights"))
    path.write_bytes(b"weig")
    assert shelf.fetch("a", sha256(b"weights")).read_bytes() == b"weights"


def test_an_object_with_another_hash_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    shelf = AdapterShelf(Blobs(a=b"swapped"), tmp_path, 1_000)
    with pytest.raises(AdapterError, match=f"a has SHA-256 {sha256(b'swapped')}, but should have {sha256(b'weights')}"):
        shelf.fetch("a", sha256(b"weights"))
    assert list(tmp_path.iterdir()) == []


def test_an_object_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="gone from the object store: tenants/t/loras/x"):
        AdapterShelf(Blobs(), tmp_path, 1_000).fetch("tenants/t/loras/x", sha256(b""))


def test_a_deleted_adapter_is_told_from_a_bad_one(tmp_path: Path) -> None:
    with pytest.raises(AdapterGone):
        AdapterShelf(Blobs(), tmp_path, 1_000).fetch("tenants/t/loras/x", sha256(b""))


def test_a_store_that_does_not_answer_is_no_fault_of_the_adapter(tmp_path: Path) -> None:
    with pytest.raises(BlobError, match="does not answer"):
        AdapterShelf(Down(), tmp_path, 1_000).fetch("a", sha256(b""))


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "0" * 63])
def test_what_is_not_a_hash_never_becomes_a_path(name: str, tmp_path: Path) -> None:
    blobs = Blobs(a=b"")
    with pytest.raises(AdapterError, match="not a SHA-256"):
        AdapterShelf(blobs, tmp_path, 1_000).fetch("a", name)
    assert blobs.asked == []


def test_the_least_recently_used_file_makes_room(tmp_path: Path) -> None:
    data = {name: name.encode() * 100 for name in "abc"}
    shelf = AdapterShelf(Blobs(**data), tmp_path, 250)
    old, used = (shelf.fetch(name, sha256(data[name])) for name in "ab")
    age(old, 3 * GRACE_S)
    age(used, 4 * GRACE_S)
    shelf.fetch("b", sha256(data["b"]))  # older, but used again
    new = shelf.fetch("c", sha256(data["c"]))
    assert {path for path in tmp_path.iterdir()} == {used, new}


def test_files_that_were_just_handed_out_stay_even_above_the_budget(tmp_path: Path) -> None:
    data = {name: name.encode() * 100 for name in "abc"}
    shelf = AdapterShelf(Blobs(**data), tmp_path, 1)
    paths = {shelf.fetch(name, sha256(data[name])) for name in "abc"}
    assert {path for path in tmp_path.iterdir()} == paths


def test_a_reader_keeps_what_it_has_open_when_the_file_is_evicted(tmp_path: Path) -> None:
    data = {name: name.encode() * 100 for name in "ab"}
    shelf = AdapterShelf(Blobs(**data), tmp_path, 100)
    path = shelf.fetch("a", sha256(data["a"]))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        age(path, 2 * GRACE_S)
        shelf.fetch("b", sha256(data["b"]))
        assert not path.exists()
        assert view[:] == data["a"]


def test_what_a_killed_process_left_half_written_is_swept(tmp_path: Path) -> None:
    stale, fresh = tmp_path / "x.part", tmp_path / "y.part"
    stale.touch()
    fresh.touch()
    age(stale, 2 * STALE_PART_S)
    AdapterShelf(Blobs(a=b"weights"), tmp_path, 1_000).fetch("a", sha256(b"weights"))
    assert (stale.exists(), fresh.exists()) == (False, True)


def fetch_many(folder: Path) -> list[bytes]:
    """Run in several processes at once: everybody fetches everything."""
    data = {f"k{number}": bytes([number]) * 50_000 for number in range(8)}
    shelf = AdapterShelf(Blobs(**data), folder, 100_000)
    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(lambda key: shelf.fetch(key, sha256(data[key])).read_bytes(), list(data) * 3))


def test_processes_that_share_a_folder_always_see_whole_files(tmp_path: Path) -> None:
    expected = [bytes([number]) * 50_000 for number in range(8)] * 3
    with ProcessPoolExecutor(3) as processes:
        futures = [processes.submit(fetch_many, tmp_path) for _ in range(3)]
        assert all(future.result(60) == expected for future in futures)
    assert not list(tmp_path.glob("*.part"))
