"""S3 in memory: BlobStore's interface over a dict, and what a client does with the URLs that it signs."""

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, quote, unquote, urlsplit

from models.blobs import BlobInfo, Part, check_key, check_prefix
from models.errors import BlobChanged, BlobError, BlobNotFound

CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Object:
    data: bytes
    info: BlobInfo


class MemoryBlobs:
    """With the same checks of keys and the same errors."""

    endpoint = "https://s3.test"

    def __init__(self, bucket: str = "pictures") -> None:
        self.bucket = bucket
        self.is_down = False
        self.parts = MemoryParts(self)
        self._objects: dict[str, _Object] = {}

    @property
    def keys(self) -> list[str]:
        return sorted(self._objects)

    def put(self, key: str, data: bytes, content_type: str, metadata: Mapping[str, str] | None = None) -> BlobInfo:
        self.reach(check_key(key))
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        info = BlobInfo(key, len(data), etag, time.time(), content_type, dict(metadata or {}))
        self._objects[key] = _Object(bytes(data), info)
        return info

    def put_file(self, key: str, path: Path, content_type: str) -> None:
        self.put(key, path.read_bytes(), content_type)

    def put_stream(self, key: str, file: BinaryIO, content_type: str) -> None:
        self.put(key, file.read(), content_type)

    def copy(self, source: str, key: str, *, etag: str | None = None) -> None:
        found = self._find(source, etag)
        self.put(key, found.data, found.info.content_type or "")

    def get(self, key: str) -> bytes:
        return self._find(key).data

    def get_file(self, key: str, path: Path) -> None:
        path.write_bytes(self.get(key))

    def read(self, key: str, *, etag: str | None = None) -> Iterator[bytes]:
        data = self._find(key, etag).data
        for first in range(0, len(data), CHUNK_BYTES):
            yield data[first : first + CHUNK_BYTES]

    def head(self, key: str) -> BlobInfo:
        return self._find(key).info

    def exists(self, key: str) -> bool:
        self.reach(check_key(key))
        return key in self._objects

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        self.reach(check_prefix(prefix))
        yield from (self._objects[key].info for key in self.keys if key.startswith(prefix))

    def delete(self, key: str) -> None:
        self.reach(check_key(key))
        self._objects.pop(key, None)

    def delete_prefix(self, prefix: str) -> int:
        return self.delete_many([info.key for info in self.list(prefix)])

    def delete_many(self, keys: Iterable[str]) -> int:
        doomed = list(keys)
        for key in doomed:
            self.delete(key)
        return len(doomed)

    def presign_get(self, key: str, expiry_s: int, filename: str | None = None) -> str:
        ends_at = int(time.time()) + expiry_s
        return f"{self.endpoint}/{self.bucket}/{quote(check_key(key))}?expires={ends_at}"

    def presign_put(self, key: str, expiry_s: int, content_type: str, num_bytes: int | None = None) -> str:
        length = "" if num_bytes is None else f"&content-length={num_bytes}"
        return self.presign_get(key, expiry_s) + f"&content-type={quote(content_type, safe='')}{length}"

    def ensure_bucket(self) -> None:
        self.reach(self.bucket)

    def check(self) -> None:
        self.reach(self.bucket)

    def open_url(self, url: str) -> bytes:
        """What a client that follows a pre-signed URL reads."""
        return self.get(self._key_of(url))

    def send(self, url: str, data: bytes, headers: Mapping[str, str] | None = None) -> int:
        """The status that a client gets who PUTs to a pre-signed URL."""
        signed = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        said = {name.lower(): value for name, value in (headers or {}).items()} | {"content-length": str(len(data))}
        is_over = int(signed["expires"]) < time.time()
        if is_over or any(
            said.get(name) != signed[name] for name in ("content-type", "content-length") & signed.keys()
        ):
            return 403
        if "part" in signed:
            return self.parts.take(signed["upload"], int(signed["part"]), data)
        self.put(self._key_of(url), data, said["content-type"])
        return 200

    def reach(self, what: str) -> None:
        """Raises BlobError while the store is down."""
        if self.is_down:
            raise BlobError(f"{what}: no answer from {self.endpoint}")

    def _key_of(self, url: str) -> str:
        return unquote(urlsplit(url).path).removeprefix(f"/{self.bucket}/")

    def _find(self, key: str, etag: str | None = None) -> _Object:
        self.reach(check_key(key))
        if key not in self._objects:
            raise BlobNotFound(f"get {key}: there is nothing in bucket {self.bucket!r} at this key")
        if etag not in {None, self._objects[key].info.etag}:
            raise BlobChanged(f"get {key}: something else is stored there by now")
        return self._objects[key]


class MemoryParts:
    """PartStore's interface; an id is good until its parts are finished or given up."""

    def __init__(self, blobs: MemoryBlobs) -> None:
        self._blobs = blobs
        self._numbers = count(1)
        self._begun: dict[str, tuple[str, str, dict[int, bytes]]] = {}  # id → key, content type, parts

    @property
    def keys(self) -> list[str]:
        """Of what was begun and neither finished nor given up."""
        return sorted(key for key, _, _ in self._begun.values())

    def begin(self, key: str, content_type: str) -> str:
        self._blobs.reach(check_key(key))
        parts_id = f"parts-{next(self._numbers)}"
        self._begun[parts_id] = key, content_type, {}
        return parts_id

    def presign(self, key: str, parts_id: str, number: int, *, num_bytes: int, expiry_s: int) -> str:
        signed = f"&upload={parts_id}&part={number}&content-length={num_bytes}"
        return self._blobs.presign_get(key, expiry_s) + signed

    def take(self, parts_id: str, number: int, data: bytes) -> int:
        if parts_id not in self._begun:
            return 404
        self._begun[parts_id][2][number] = data
        return 200

    def list(self, key: str, parts_id: str) -> list[Part]:
        parts = self._parts_of(key, parts_id)
        etags = {number: hashlib.md5(data, usedforsecurity=False).hexdigest() for number, data in parts.items()}
        return [Part(number, len(parts[number]), etags[number]) for number in sorted(parts)]

    def finish(self, key: str, parts_id: str, parts: Sequence[Part]) -> None:
        sent = self._parts_of(key, parts_id)
        _, content_type, _ = self._begun.pop(parts_id)
        self._blobs.put(key, b"".join(sent[part.number] for part in parts), content_type)

    def abort_all(self, key: str) -> None:
        self._blobs.reach(check_key(key))
        self._begun = {parts_id: begun for parts_id, begun in self._begun.items() if begun[0] != key}

    def _parts_of(self, key: str, parts_id: str) -> dict[int, bytes]:
        self._blobs.reach(check_key(key))
        if parts_id not in self._begun:
            raise BlobNotFound(f"list parts {key}: there is nothing in bucket {self._blobs.bucket!r} at this key")
        return self._begun[parts_id][2]
