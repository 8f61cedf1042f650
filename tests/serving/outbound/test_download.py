"""Outbound.download(): a file of somebody else's, written down as it comes, under the same guard as every call."""

import asyncio
import io

import pytest

from serving.outbound import BadTarget, TookTooLong, TooMuch
from tests.serving.outbound.servers import Names, outbound, server

BODY = bytes(range(256)) * 1_000


def answer(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def test_a_body_is_written_to_the_file_and_stays_out_of_the_answer() -> None:
    file = io.BytesIO()
    async with server(answer(BODY)) as there:
        told = await outbound().download(there.url(), file, timeout_s=5, max_bytes=len(BODY))
    assert (told.status, told.body, file.getvalue()) == (200, b"", BODY)


async def test_a_larger_body_is_too_much_and_no_more_than_the_limit_is_written() -> None:
    file = io.BytesIO()
    async with server(answer(BODY)) as there:
        with pytest.raises(TooMuch, match="1000 bytes"):
            await outbound().download(there.url(), file, timeout_s=5, max_bytes=1_000)
    assert file.getvalue() == BODY[:1_000]


async def test_what_a_redirect_or_an_error_says_is_not_written() -> None:
    file = io.BytesIO()
    async with server(answer(b"gone", "404 Not Found")) as last:
        moved = f"HTTP/1.1 302 Moved\r\nLocation: {last.url()}\r\nContent-Length: 5\r\n\r\nmoved".encode()
        async with server(moved) as first:
            told = await outbound().download(first.url(), file, timeout_s=5, max_bytes=100)
    assert (told.status, told.body, file.getvalue()) == (404, b"gone", b"")


async def test_private_addresses_are_refused_at_the_first_call_and_after_a_redirect() -> None:
    with pytest.raises(BadTarget):
        await outbound(Names(["10.0.0.1"]), allow=()).download(
            "http://inside.test/", io.BytesIO(), timeout_s=5, max_bytes=9
        )
    async with server(b"HTTP/1.1 302 Moved\r\nLocation: http://10.0.0.1/\r\nContent-Length: 0\r\n\r\n") as there:
        with pytest.raises(BadTarget):
            await outbound().download(there.url(), io.BytesIO(), timeout_s=5, max_bytes=9)


async def test_a_body_that_never_ends_is_given_up_in_time() -> None:
    async def drip(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with server(drip) as there:
        with pytest.raises(TookTooLong, match=r"0\.1 s"):
            await outbound().download(there.url(), io.BytesIO(), timeout_s=0.1, max_bytes=10**6)


async def test_a_file_that_cannot_be_written_is_told_as_that() -> None:
    class Full(io.BytesIO):
        def write(self, _data: object) -> int:
            raise OSError(28, "No space left on device")

    async with server(answer(BODY)) as there:
        with pytest.raises(OSError, match="No space"):
            await outbound().download(there.url(), Full(), timeout_s=5, max_bytes=len(BODY))
