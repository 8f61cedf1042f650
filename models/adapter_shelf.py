"""AdapterShelf: adapter files on this machine's disk, fetched from the object store once. Reads no tensors.

Several processes may share a folder: files get their names, which are their hashes, only when they are whole.
"""

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from models.errors import AdapterError, AdapterGone, BlobNotFound

SHA256 = re.compile(r"[0-9a-f]{64}")
SUFFIX = ".safetensors"
# A file handed out this recently may not have been opened yet; once it is, deleting it takes nothing from its reader.
GRACE_S = 60.0
# What a killed process has left half-written.
STALE_PART_S = 3_600.0


class BlobSource(Protocol):
    """The one thing that is asked of the object store."""

    def get(self, key: str) -> bytes: ...


class AdapterShelf:
    """A folder of at most `max_bytes`, least recently used out first. Safe from any thread and any process."""

    def __init__(self, blobs: BlobSource, folder: Path, max_bytes: int) -> None:
        self._blobs, self._folder, self._max_bytes = blobs, folder, max_bytes

    def fetch(self, key: str, sha256: str) -> Path:
        """The file with this hash, from the shelf or else from `key` in the store; open it soon.

        AdapterGone when the object is, AdapterError when it is another one; BlobError when the store does not answer.
        """
        if not SHA256.fullmatch(sha256):
            raise AdapterError(f"{sha256!r} is not a SHA-256 in lower-case hex.")
        path = self._folder / f"{sha256}{SUFFIX}"
        if not self._is_whole(path, sha256):
            self._download(key, sha256, path)
            self._evict()
        return path

    def _is_whole(self, path: Path, sha256: str) -> bool:
        try:
            with path.open("rb") as file:
                # Its time is when it was last used. Set first, so that nobody evicts it while it is being read.
                os.utime(file.fileno())
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except FileNotFoundError:
            return False

    def _download(self, key: str, sha256: str, path: Path) -> None:
        try:
            data = self._blobs.get(key)
        except BlobNotFound as error:
            raise AdapterGone(f"The adapter's file is gone from the object store: {key}.") from error
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise AdapterError(f"The adapter's file {key} has SHA-256 {found}, but should have {sha256}.")
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor, part = tempfile.mkstemp(dir=self._folder, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            Path(part).replace(path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise

    def _evict(self) -> None:
        now_s = time.time()
        files = sorted(self._stats(f"*{SUFFIX}"), key=lambda file: file[1].st_mtime)
        total_bytes = sum(stat.st_size for _, stat in files)
        for path, stat in files:
            if total_bytes <= self._max_bytes or stat.st_mtime > now_s - GRACE_S:
                break
            path.unlink(missing_ok=True)
            total_bytes -= stat.st_size
        for path, stat in self._stats("*.part"):
            if stat.st_mtime < now_s - STALE_PART_S:
                path.unlink(missing_ok=True)

    def _stats(self, pattern: str) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self._folder.glob(pattern):
            try:
                yield path, path.stat()
            except FileNotFoundError:  # another process evicts as well
                continue
