"""Bodies that carry files: counted and timed on their way to the form parser, which keeps large files on disk."""

import asyncio
import hashlib
from contextlib import suppress
from typing import BinaryIO

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from serving.errors import RequestTimeout, TooLarge, UnsupportedMedia

# A body over the limit is read and thrown away up to here, so that the client gets to see the answer.
MAX_DRAINED_BYTES = 64 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024


class Upload:
    """A multipart body in the making. Knows no form and no field; stands between the server and the parser."""

    def __init__(self, receive: Receive, *, limit_bytes: int, within_s: float) -> None:
        self._receive = receive
        self._limit_bytes = limit_bytes
        self._within_s = within_s
        self._ends_at = asyncio.get_running_loop().time() + within_s
        self._num_bytes = 0
        self._is_complete = False

    async def check(self, headers: Headers) -> None:
        """Refuses by what the headers say, before anything is parsed."""
        content_type = content_type_of(headers)
        if content_type != "multipart/form-data":
            await self.drain()
            raise unsupported(content_type, expected="multipart/form-data")
        if declares_more(headers, self._limit_bytes):
            await self.drain()
            raise self._too_large

    async def receive(self) -> Message:
        """The next piece, or TooLarge, or RequestTimeout; after the last one whatever the server says."""
        if self._is_complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._ends_at):
                message = await self._receive()
        except TimeoutError as error:
            raise RequestTimeout(f"The request was not complete after {self._within_s:g} s.") from error
        self._num_bytes += len(message.get("body", b""))
        self._is_complete = message["type"] == "http.disconnect" or not message.get("more_body", False)
        if self._num_bytes > self._limit_bytes:
            raise self._too_large
        return message

    async def drain(self) -> None:
        """Throws away what a refused client still sends."""
        if not self._is_complete:
            self._is_complete = True
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._ends_at):
                    await drain(self._receive)

    @property
    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body is larger than {self._limit_bytes} bytes.")


async def drain(receive: Receive) -> None:
    num_bytes = 0
    while num_bytes < MAX_DRAINED_BYTES:
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return


def content_type_of(headers: Headers) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def declares_more(headers: Headers, limit_bytes: int) -> bool:
    declared = headers.get("content-length")
    return declared is not None and declared.isascii() and declared.isdigit() and int(declared) > limit_bytes


def unsupported(content_type: str, *, expected: str) -> UnsupportedMedia:
    named = repr(content_type[:60]) if content_type else "missing"
    return UnsupportedMedia(f"The content type must be {expected}; it is {named}.")


def sha256_of(file: BinaryIO) -> str:
    """In hex, of the whole file; it stands at its beginning again afterwards. Blocks."""
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()
