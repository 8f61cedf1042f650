"""Event streams: how events look on the line, keep-alives, errors on the way, and a client that hangs up."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from serving.api.sse import KEEP_ALIVE, EventStream, event, kept_alive
from serving.errors import Unavailable


async def started(events: AsyncGenerator[bytes, None], *, hangs_up: asyncio.Event, sent: list[dict[str, Any]]) -> None:
    """Runs a stream as a server does."""

    async def receive() -> dict[str, Any]:
        await hangs_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await EventStream(events, keep_alive_s=10)({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)


async def body_of(events: AsyncGenerator[bytes, None]) -> str:
    sent: list[dict[str, Any]] = []
    await asyncio.wait_for(started(events, hangs_up=asyncio.Event(), sent=sent), 5)
    assert sent[0]["type"] == "http.response.start"
    assert [message["more_body"] for message in sent[1:]] == [True] * (len(sent) - 2) + [False]
    return b"".join(message["body"] for message in sent[1:]).decode()


@pytest.mark.parametrize("text", ["plain", "two\nlines", "\r\n\r\n", "event: x\ndata: y", "ünïcödé 🍎", "\u2028"])
def test_an_event_is_two_lines_whatever_its_data_holds(text: str) -> None:
    name, data, *rest = event("preview", {"text": text}).decode().split("\n")
    assert (name, rest) == ("event: preview", ["", ""])
    assert json.loads(data.removeprefix("data: ")) == {"text": text}


async def test_a_silent_stream_is_kept_alive_and_loses_no_event() -> None:
    async def slow() -> AsyncGenerator[bytes, None]:
        for number in (1, 2):
            await asyncio.sleep(0.05)
            yield event("tick", {"n": number})

    chunks = [chunk async for chunk in kept_alive(slow(), period_s=0.01)]
    assert [chunk for chunk in chunks if chunk != KEEP_ALIVE] == [event("tick", {"n": 1}), event("tick", {"n": 2})]
    assert chunks[0] == KEEP_ALIVE


async def test_a_refusal_on_the_way_becomes_an_event_in_openais_shape() -> None:
    async def refused() -> AsyncGenerator[bytes, None]:
        yield event("tick", {})
        raise Unavailable("not now", code="still_running")

    _, error, end = (await body_of(refused())).split("\n\n")
    assert error.startswith("event: error\n")
    assert json.loads(error.partition("data: ")[2]) == {
        "type": "error",
        "error": {"message": "not now", "type": "server_error", "param": None, "code": "still_running"},
    }
    assert end == ""


async def test_a_bug_of_ours_is_told_without_its_insides() -> None:
    async def broken() -> AsyncGenerator[bytes, None]:
        yield event("tick", {})
        raise ZeroDivisionError("secret")

    body = await body_of(broken())
    assert '"code":"internal_error"' in body
    assert "secret" not in body


async def test_a_client_that_hangs_up_closes_what_makes_the_events() -> None:
    is_waiting, is_closed, hangs_up = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            yield event("tick", {})
            is_waiting.set()
            await asyncio.Event().wait()
        finally:
            is_closed.set()

    before = asyncio.all_tasks()
    streaming = asyncio.create_task(started(endless(), hangs_up=hangs_up, sent=[]))
    await asyncio.wait_for(is_waiting.wait(), 5)
    hangs_up.set()
    await asyncio.wait_for(streaming, 5)
    assert is_closed.is_set()
    assert asyncio.all_tasks() == before


async def test_a_client_that_does_not_read_and_then_hangs_up_is_let_go() -> None:
    is_closed, hangs_up = asyncio.Event(), asyncio.Event()

    async def many() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield event("tick", {})
        finally:
            is_closed.set()

    async def receive() -> dict[str, Any]:
        await hangs_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    streaming = asyncio.create_task(EventStream(many(), keep_alive_s=10)({"type": "http"}, receive, send))
    await asyncio.sleep(0.01)
    hangs_up.set()
    await asyncio.wait_for(streaming, 5)
    assert is_closed.is_set()
