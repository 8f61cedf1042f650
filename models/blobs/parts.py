"""Objects sent in parts: begun, signed part by part, put together or given up. Knows no whole objects."""

from collections.abc import Sequence
from dataclasses import dataclass

from models.blobs.connection import Connection
from models.blobs.keys import check_key


@dataclass(frozen=True, slots=True)
class Part:
    """One part that has arrived."""

    number: int  # 1, 2, …
    size_bytes: int
    etag: str


class PartStore:
    """S3's multipart uploads. Until it is finished, what is sent in parts is no object."""

    def __init__(self, connection: Connection) -> None:
        self._to = connection

    def begin(self, key: str, content_type: str) -> str:
        """The id under which parts of this object-to-be are sent."""
        with self._to.errors_of("begin", check_key(key)):
            reply = self._to.client.create_multipart_upload(Bucket=self._to.bucket, Key=key, ContentType=content_type)
        return str(reply["UploadId"])

    def presign(self, key: str, parts_id: str, number: int, *, num_bytes: int, expiry_s: int) -> str:
        """A URL to which anyone may PUT this part for `expiry_s`, exactly so long."""
        params = {"Key": check_key(key), "UploadId": parts_id, "PartNumber": number, "ContentLength": num_bytes}
        return self._to.presign("upload_part", params, expiry_s)

    def list(self, key: str, parts_id: str) -> list[Part]:
        """What has arrived, by number. BlobNotFound once it is finished or given up."""
        pages = self._to.client.get_paginator("list_parts").paginate(
            Bucket=self._to.bucket, Key=check_key(key), UploadId=parts_id
        )
        with self._to.errors_of("list parts", key):
            return [
                Part(item["PartNumber"], item["Size"], item["ETag"].strip('"'))
                for page in pages
                for item in page.get("Parts", ())
            ]

    def finish(self, key: str, parts_id: str, parts: Sequence[Part]) -> None:
        """The parts become the object. BlobNotFound once it is finished or given up."""
        wanted = [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
        with self._to.errors_of("finish", check_key(key)):
            self._to.client.complete_multipart_upload(
                Bucket=self._to.bucket, Key=key, UploadId=parts_id, MultipartUpload={"Parts": wanted}
            )

    def abort_all(self, key: str) -> None:
        """Gives up whatever was begun at this key, and its parts with it; finished objects stay."""
        # Asked of the store: whoever began it may have died before it could write the id down.
        pages = self._to.client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._to.bucket, Prefix=check_key(key)
        )
        with self._to.errors_of("abort", key):
            begun = [item["UploadId"] for page in pages for item in page.get("Uploads", ()) if item["Key"] == key]
            for parts_id in begun:
                self._to.client.abort_multipart_upload(Bucket=self._to.bucket, Key=key, UploadId=parts_id)
