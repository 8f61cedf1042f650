"""The way to one bucket: boto3's clients, pre-signed URLs, and the one table from their errors to ours."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import boto3.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.exceptions import RetriesExceededError

from models.errors import BlobChanged, BlobError, BlobNotFound

MAX_EXPIRY_S = 604_800  # Signature V4 allows seven days
CONNECT_TIMEOUT_S = 5.0

# What the server's error codes mean to us; every code that is not here is told as it came.
NOT_FOUND = {"NoSuchKey", "NoSuchUpload", "404", "NotFound"}
CHANGED = {"PreconditionFailed", "412"}
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


class Connection:
    """Safe to share between threads: boto3 clients are, and nothing else is kept."""

    def __init__(
        self,
        *,
        endpoint: str,
        bucket: str,
        access_key: str,
        secret_key: str,
        region: str,
        public_endpoint: str | None,
        timeout_s: float,
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
        self.client = session.client("s3", endpoint_url=endpoint, config=config)
        # The signature covers the host name, so URLs for clients are signed for the name that clients use.
        self._signer = session.client("s3", endpoint_url=public_endpoint or endpoint, config=config)

    def presign(self, operation: str, params: dict[str, Any], expiry_s: int) -> str:
        """A URL that does this one thing for whoever has it."""
        if not 0 < expiry_s <= MAX_EXPIRY_S:
            raise ValueError(f"expiry_s must be 1 to {MAX_EXPIRY_S}, not {expiry_s}")
        with self.errors_of("presign", params["Key"]):
            url: str = self._signer.generate_presigned_url(
                operation, Params={"Bucket": self.bucket, **params}, ExpiresIn=expiry_s
            )
        return url

    @contextmanager
    def errors_of(self, action: str, what: str) -> Generator[None, None, None]:
        """Boto3's errors as ours."""
        try:
            yield
        except ClientError as error:
            code = code_of(error)
            if code in NOT_FOUND:
                raise BlobNotFound(
                    f"{action} {what}: there is nothing in bucket {self.bucket!r} at this key"
                ) from error
            if code in CHANGED:
                raise BlobChanged(f"{action} {what}: something else is stored there by now") from error
            reason = _ADVICE.get(code) or error.response.get("Error", {}).get("Message") or "refused"
            raise BlobError(f"{action} {what}: {reason} ({code}, bucket {self.bucket!r} at {self.endpoint})") from error
        except (BotoCoreError, RetriesExceededError) as error:
            raise BlobError(f"{action} {what}: no answer from {self.endpoint}: {error}") from error


def code_of(error: ClientError) -> str:
    """S3's own word for what went wrong."""
    return str(error.response.get("Error", {}).get("Code", ""))
