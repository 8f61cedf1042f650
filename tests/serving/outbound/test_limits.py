"""Servers that drip, pour, lie or say nothing: how much of our time and memory they get."""

import asyncio

import pytest

from serving.outbound import NoAnswer, TookTooLong, TooMuch
from tests.serving.outbound.servers import OK, get, outbound, post, server


async def drip(_head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1_000):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def test_a_body_that_drips_is_given_up_when_the_time_for_the_whole_call_is_over() -> None:
    async with server(drip) as there:
        for call in (post, get):
            with pytest.raises(TookTooLong, match=r"0\.1 s"):
                await call(outbound(), there.url(), timeout_s=0.1)


async def pour(_head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"x" * 65_536)
        await writer.drain()


async def test_a_body_without_end_is_cut_for_a_post_and_too_much_for_a_get() -> None:
    async with server(pour) as there:
        answer = await post(outbound(), there.url(), max_bytes=100)
        assert (answer.status, answer.body, answer.is_cut) == (200, b"x" * 100, True)
        with pytest.raises(TooMuch, match="100 bytes"):
            await get(outbound(), there.url(), max_bytes=100)


async def test_a_get_takes_a_body_of_exactly_the_limit() -> None:
    async with server(OK) as there:
        assert (await get(outbound(), there.url(), max_bytes=2)).body == b"ok"


async def test_a_compressed_bomb_is_not_asked_for_and_not_blown_up() -> None:
    bomb = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00"
    async with server(bomb) as there:
        assert (await get(outbound(), there.url())).body == b"\x1f\x8b\x08\x00"
    assert "Accept-Encoding: identity" in there.heads[0]


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ],
)
async def test_what_is_no_proper_answer_is_told_as_that(said: bytes) -> None:
    async with server(said) as there:
        with pytest.raises(NoAnswer):
            await post(outbound(), there.url())


async def test_nobody_listening_is_no_answer_and_tells_no_address() -> None:
    async with server(OK) as there:
        pass
    with pytest.raises(NoAnswer) as refusal:
        await post(outbound(), there.url())
    assert str(refusal.value) == "No connection."
