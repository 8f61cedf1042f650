"""BlobStore: the objects of one bucket."""

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Self
from urllib.parse import quote

from configs.settings import S3Settings
from models.blobs.bucket import ensure_bucket
from models.blobs.connection import Connection
from models.blobs.keys import check_key, check_prefix
from models.blobs.parts import PartStore
from models.errors import BlobError, BlobNotFound

DELETE_BATCH = 1_000  # most keys one DeleteObjects call takes
CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """What the store says about one object."""

    key: str
    size_bytes: int
    etag: str  # changes when the object does
    modified_s: float  # Unix time
    content_type: str | None = None  # None in listings
    metadata: Mapping[str, str] = field(default_factory=dict)


class BlobStore:
    """One bucket. Safe to share between threads. `parts` is the other way to bring objects in."""

    def __init__(
        self,
        *,
        endpoint: str,
        bucket: str,
        access_key: str,
        secret_key: str,
        region: str = "us-east-1",
        public_endpoint: str | None = None,
        timeout_s: float = 20.0,
    ) -> None:
        self.endpoint, self.bucket = endpoint, bucket
        self._to = Connection(
            endpoint=endpoint,
            bucket=bucket,
            access_key=access_key,
            secret_key=secret_key,
            region=region,
            public_endpoint=public_endpoint,
            timeout_s=timeout_s,
        )
        self._client = self._to.client
        self.parts = PartStore(self._to)

    @classmethod
    def from_settings(cls, s3: S3Settings) -> Self:
        """For settings whose endpoint and keys are known, the embedded server's already filled in."""
        if s3.endpoint is None or s3.access_key is None or s3.secret_key is None:
            raise ValueError("s3.endpoint, s3.access_key and s3.secret_key must be known before the store is opened")
        return cls(
            endpoint=s3.endpoint,
            bucket=s3.bucket,
            access_key=s3.access_key,
            secret_key=s3.secret_key.get_secret_value(),
            region=s3.region,
            public_endpoint=s3.public_endpoint,
            timeout_s=s3.timeout_s,
        )

    def put(self, key: str, data: bytes, content_type: str, metadata: Mapping[str, str] | None = None) -> BlobInfo:
        """Store `data`, replacing what is there. Metadata is a courtesy to readers: the truth is in the job."""
        check_key(key)
        with self._to.errors_of("put", key):
            reply = self._client.put_object(
                Bucket=self.bucket, Key=key, Body=data, ContentType=content_type, Metadata=dict(metadata or {})
            )
        return BlobInfo(key, len(data), reply["ETag"].strip('"'), time.time(), content_type, dict(metadata or {}))

    def put_file(self, key: str, path: Path, content_type: str) -> None:
        """Store a file of any size, in parts: it never sits in memory as a whole."""
        with path.open("rb") as file:
            self.put_stream(key, file, content_type)

    def put_stream(self, key: str, file: BinaryIO, content_type: str) -> None:
        """The same for an open file, from where it stands; it may be closed afterwards."""
        with self._to.errors_of("put", check_key(key)):
            self._client.upload_fileobj(file, self.bucket, key, ExtraArgs={"ContentType": content_type})

    def copy(self, source: str, key: str, *, etag: str | None = None) -> None:
        """The same bytes at `key` too; they stay inside the store. BlobChanged where `source` is not `etag` any more.

        Of any size: what is too large for one request is copied in parts.
        """
        check_key(source)
        check_key(key)
        only_if = {} if etag is None else {"CopySourceIfMatch": etag}
        with self._to.errors_of("copy", source):
            self._client.copy({"Bucket": self.bucket, "Key": source}, self.bucket, key, ExtraArgs=only_if)

    def get(self, key: str) -> bytes:
        return b"".join(self.read(key))

    def get_file(self, key: str, path: Path) -> None:
        """Write the object to `path`, in parts."""
        check_key(key)
        with self._to.errors_of("get", key), path.open("wb") as file:
            self._client.download_fileobj(self.bucket, key, file)

    def read(self, key: str, *, etag: str | None = None) -> Iterator[bytes]:
        """The object in chunks, as it comes. BlobChanged where it is not `etag` any more."""
        only_if = {} if etag is None else {"IfMatch": etag}
        with self._to.errors_of("get", check_key(key)):
            body = self._client.get_object(Bucket=self.bucket, Key=key, **only_if)["Body"]
            with body:
                yield from body.iter_chunks(CHUNK_BYTES)

    def head(self, key: str) -> BlobInfo:
        """What is stored at `key`; BlobNotFound when nothing is."""
        check_key(key)
        with self._to.errors_of("head", key):
            reply = self._client.head_object(Bucket=self.bucket, Key=key)
        return BlobInfo(
            key,
            reply["ContentLength"],
            reply["ETag"].strip('"'),
            reply["LastModified"].timestamp(),
            reply.get("ContentType"),
            reply.get("Metadata", {}),
        )

    def exists(self, key: str) -> bool:
        try:
            self.head(key)
        except BlobNotFound:
            return False
        return True

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """Objects under a folder (`prefix` ends in '/'), in key order, fetched page by page."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=check_prefix(prefix))
        with self._to.errors_of("list", prefix):
            for page in pages:
                for item in page.get("Contents", ()):
                    modified_s = item["LastModified"].timestamp()
                    yield BlobInfo(item["Key"], item["Size"], item["ETag"].strip('"'), modified_s)

    def delete(self, key: str) -> None:
        """Nothing happens when there is no such object."""
        check_key(key)
        with self._to.errors_of("delete", key):
            self._client.delete_object(Bucket=self.bucket, Key=key)

    def delete_prefix(self, prefix: str) -> int:
        """Delete everything under a folder; returns how many objects went."""
        return self.delete_many(blob.key for blob in self.list(prefix))

    def delete_many(self, keys: Iterable[str]) -> int:
        """Delete all of these, a thousand at a time; returns how many they were."""
        num_deleted = 0
        for batch in _batches(map(check_key, keys)):
            with self._to.errors_of("delete", batch[0]):
                reply = self._client.delete_objects(
                    Bucket=self.bucket, Delete={"Objects": [{"Key": key} for key in batch], "Quiet": True}
                )
            if failed := reply.get("Errors"):
                first = failed[0]
                raise BlobError(f"delete {first.get('Key')}: {first.get('Code')} {first.get('Message', '')}".strip())
            num_deleted += len(batch)
        return num_deleted

    def presign_get(self, key: str, expiry_s: int, filename: str | None = None) -> str:
        """A URL that anyone may read for `expiry_s`; with `filename` browsers save it under that name."""
        params: dict[str, Any] = {"Key": check_key(key)}
        if filename is not None:
            params["ResponseContentDisposition"] = _attachment(filename)
        return self._to.presign("get_object", params, expiry_s)

    def presign_put(self, key: str, expiry_s: int, content_type: str, num_bytes: int | None = None) -> str:
        """A URL to which anyone may PUT for `expiry_s`, with exactly this Content-Type and, if given, so many bytes."""
        params: dict[str, Any] = {"Key": check_key(key), "ContentType": content_type}
        if num_bytes is not None:
            params["ContentLength"] = num_bytes
        return self._to.presign("put_object", params, expiry_s)

    def ensure_bucket(self) -> None:
        """Create the bucket unless it is there, and let `temp/` expire; safe when several processes start at once."""
        ensure_bucket(self._to)

    def check(self) -> None:
        """For readiness: raises BlobError unless the bucket answers now."""
        with self._to.errors_of("check", self.bucket):
            self._client.head_bucket(Bucket=self.bucket)


def _attachment(filename: str) -> str:
    # Quotes, backslashes, separators and controls would break out of the header or the folder.
    safe = re.sub(r'[\x00-\x1f\x7f"\\/]', "_", filename) or "file"
    ascii_name = safe.encode("ascii", "replace").decode("ascii").replace("?", "_")
    return f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(safe.encode('utf-8', 'replace'), safe='')}"


def _batches(keys: Iterable[str]) -> Iterator[tuple[str, ...]]:
    keys = iter(keys)
    while batch := tuple(islice(keys, DELETE_BATCH)):
        yield batch
