"""S3: put, get, list, presign. The only boto3 import. Blocking on purpose: async callers use asyncio.to_thread."""

import re
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import boto3.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.exceptions import RetriesExceededError

from configs.settings import S3Settings
from models.errors import BlobError, BlobNotFound

MAX_KEY_CHARS = 1_000  # S3 allows 1,024 bytes; our alphabet is ASCII
MAX_EXPIRY_S = 604_800  # Signature V4 allows seven days
DELETE_BATCH = 1_000  # most keys one DeleteObjects call takes
CONNECT_TIMEOUT_S = 5.0
# A second line: the server removes what jobs started from a day after they end, and they may wait and be tried again.
TEMP_RULE = {"ID": "darkroom-temp", "Status": "Enabled", "Filter": {"Prefix": "temp/"}, "Expiration": {"Days": 3}}
_SEGMENT = re.compile(r"[A-Za-z0-9!_.=@+,()\-]+")

# What the server's error codes mean to us; every code that is not here is told as it came.
_NOT_FOUND = {"NoSuchKey", "404", "NotFound"}
# Stores without lifecycle rules (rclone takes the request for another bucket), and keys that may not set any.
_NO_RULES = {"NotImplemented", "MethodNotAllowed", "BucketAlreadyExists", "AccessDenied"}
_ADVICE = {
    "NoSuchBucket": "the bucket does not exist",
    "AccessDenied": "the credentials may not do this",
    "403": "the credentials may not do this",
    "InvalidAccessKeyId": "the server does not know this access key",
    "SignatureDoesNotMatch": "the secret key does not fit the access key",
    "RequestTimeTooSkewed": "the clocks of this machine and of the server differ",
    "SlowDown": "the server asks for fewer requests",
    "EntityTooLarge": "the object is too large for one request",
}


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """What the store says about one object."""

    key: str
    size_bytes: int
    etag: str
    modified_s: float  # Unix time
    content_type: str | None = None  # None in listings
    metadata: Mapping[str, str] = field(default_factory=dict)


class BlobStore:
    """One bucket. Safe to share between threads: boto3 clients are, and nothing else is kept."""

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
        session = boto3.session.Session(
            aws_access_key_id=access_key, aws_secret_access_key=secret_key, region_name=region
        )
        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            # Newer default checksums break range reads and older servers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            connect_timeout=min(CONNECT_TIMEOUT_S, timeout_s),
            read_timeout=timeout_s,
            retries={"mode": "standard", "total_max_attempts": 3},
            max_pool_connections=32,
        )
        self._client = session.client("s3", endpoint_url=endpoint, config=config)
        # The signature covers the host name, so URLs for clients are signed for the name that clients use.
        self._signer = session.client("s3", endpoint_url=public_endpoint or endpoint, config=config)

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
        with self._errors_of("put", key):
            reply = self._client.put_object(
                Bucket=self.bucket, Key=key, Body=data, ContentType=content_type, Metadata=dict(metadata or {})
            )
        return BlobInfo(key, len(data), reply["ETag"].strip('"'), time.time(), content_type, dict(metadata or {}))

    def put_file(self, key: str, path: Path, content_type: str) -> None:
        """Store a file of any size, in parts: it never sits in memory as a whole."""
        check_key(key)
        with self._errors_of("put", key), path.open("rb") as file:
            self._client.upload_fileobj(file, self.bucket, key, ExtraArgs={"ContentType": content_type})

    def copy(self, source: str, key: str) -> None:
        """The same bytes at `key` too; they stay inside the store."""
        check_key(source)
        check_key(key)
        with self._errors_of("copy", source):
            self._client.copy({"Bucket": self.bucket, "Key": source}, self.bucket, key)

    def get(self, key: str) -> bytes:
        check_key(key)
        with self._errors_of("get", key):
            body: bytes = self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return body

    def get_file(self, key: str, path: Path) -> None:
        """Write the object to `path`, in parts."""
        check_key(key)
        with self._errors_of("get", key), path.open("wb") as file:
            self._client.download_fileobj(self.bucket, key, file)

    def head(self, key: str) -> BlobInfo:
        """What is stored at `key`; BlobNotFound when nothing is."""
        check_key(key)
        with self._errors_of("head", key):
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
        with self._errors_of("list", prefix):
            for page in pages:
                for item in page.get("Contents", ()):
                    modified_s = item["LastModified"].timestamp()
                    yield BlobInfo(item["Key"], item["Size"], item["ETag"].strip('"'), modified_s)

    def delete(self, key: str) -> None:
        """Nothing happens when there is no such object."""
        check_key(key)
        with self._errors_of("delete", key):
            self._client.delete_object(Bucket=self.bucket, Key=key)

    def delete_prefix(self, prefix: str) -> int:
        """Delete everything under a folder; returns how many objects went."""
        return self.delete_many(blob.key for blob in self.list(prefix))

    def delete_many(self, keys: Iterable[str]) -> int:
        """Delete all of these, a thousand at a time; returns how many they were."""
        num_deleted = 0
        for batch in _batches(map(check_key, keys)):
            with self._errors_of("delete", batch[0]):
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
        params: dict[str, Any] = {"Bucket": self.bucket, "Key": check_key(key)}
        if filename is not None:
            params["ResponseContentDisposition"] = _attachment(filename)
        return self._presign("get_object", params, expiry_s)

    def presign_put(self, key: str, expiry_s: int, content_type: str) -> str:
        """A URL to which anyone may PUT for `expiry_s`, sending exactly this Content-Type."""
        return self._presign(
            "put_object", {"Bucket": self.bucket, "Key": check_key(key), "ContentType": content_type}, expiry_s
        )

    def ensure_bucket(self) -> None:
        """Create the bucket unless it is there, and let `temp/` expire; safe when several processes start at once."""
        with self._errors_of("create bucket", self.bucket):
            try:
                self._client.head_bucket(Bucket=self.bucket)
            except ClientError as error:
                if _code(error) not in _NOT_FOUND | {"NoSuchBucket"}:
                    raise
                self._create_bucket()
            self._let_temp_expire()

    def check(self) -> None:
        """For readiness: raises BlobError unless the bucket answers now."""
        with self._errors_of("check", self.bucket):
            self._client.head_bucket(Bucket=self.bucket)

    def _create_bucket(self) -> None:
        try:
            self._client.create_bucket(Bucket=self.bucket)
        except ClientError as error:
            if _code(error) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise

    def _let_temp_expire(self) -> None:
        """Adds our rule to those that the bucket's owner has set, where the store knows rules."""
        try:
            try:
                rules = self._client.get_bucket_lifecycle_configuration(Bucket=self.bucket).get("Rules", [])
            except ClientError as error:
                if _code(error) != "NoSuchLifecycleConfiguration":
                    raise
                rules = []
            if TEMP_RULE["ID"] not in {rule.get("ID") for rule in rules}:
                wanted = {"Rules": [*rules, TEMP_RULE]}
                self._client.put_bucket_lifecycle_configuration(Bucket=self.bucket, LifecycleConfiguration=wanted)
        except ClientError as error:
            if _code(error) not in _NO_RULES:
                raise

    def _presign(self, operation: str, params: dict[str, Any], expiry_s: int) -> str:
        if not 0 < expiry_s <= MAX_EXPIRY_S:
            raise ValueError(f"expiry_s must be 1 to {MAX_EXPIRY_S}, not {expiry_s}")
        with self._errors_of("presign", params["Key"]):
            url: str = self._signer.generate_presigned_url(operation, Params=params, ExpiresIn=expiry_s)
        return url

    @contextmanager
    def _errors_of(self, action: str, what: str) -> Generator[None, None, None]:
        """The one table from boto3's errors to ours."""
        try:
            yield
        except ClientError as error:
            code = _code(error)
            if code in _NOT_FOUND:
                raise BlobNotFound(
                    f"{action} {what}: there is nothing in bucket {self.bucket!r} at this key"
                ) from error
            reason = _ADVICE.get(code) or error.response.get("Error", {}).get("Message") or "refused"
            raise BlobError(f"{action} {what}: {reason} ({code}, bucket {self.bucket!r} at {self.endpoint})") from error
        except (BotoCoreError, RetriesExceededError) as error:
            raise BlobError(f"{action} {what}: no answer from {self.endpoint}: {error}") from error


def check_key(key: str) -> str:
    """`key` itself, or ValueError: stores disagree about empty segments, dots and odd characters, so we avoid them."""
    segments = key.split("/")
    if len(key) > MAX_KEY_CHARS or any(s in {".", ".."} or not _SEGMENT.fullmatch(s) for s in segments):
        raise ValueError(f"not a usable object key: {key[:200]!r}")
    return key


def check_prefix(prefix: str) -> str:
    """`prefix` itself, or ValueError unless it is a folder."""
    # Without the closing slash "tenants/a" would also reach "tenants/ab/…".
    if not prefix.endswith("/"):
        raise ValueError(f"a prefix must end in '/': {prefix!r}")
    check_key(prefix[:-1])
    return prefix


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _attachment(filename: str) -> str:
    # Quotes, backslashes, separators and controls would break out of the header or the folder.
    safe = re.sub(r'[\x00-\x1f\x7f"\\/]', "_", filename) or "file"
    ascii_name = safe.encode("ascii", "replace").decode("ascii").replace("?", "_")
    return f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(safe.encode('utf-8', 'replace'), safe='')}"


def _batches(keys: Iterable[str]) -> Iterator[tuple[str, ...]]:
    keys = iter(keys)
    while batch := tuple(islice(keys, DELETE_BATCH)):
        yield batch
