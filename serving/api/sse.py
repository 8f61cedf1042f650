"""Server-sent events: how they are written, kept alive and ended. Knows no job and no picture."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serving.errors import AppError
from serving.telemetry import get_logger

log = get_logger("api")

KEEP_ALIVE = b": keep-alive\n\n"
# no-transform and X-Accel-Buffering: proxies must hand on every event as it comes.
HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


def event(name: str, data: Mapping[str, Any]) -> bytes:
    """One event; JSON keeps to one line, as the format wants."""
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


class EventStream(StreamingResponse):
    """Sends events until there are no more, or the client hangs up: then what makes them is closed at once.

    `on_hang_up` hears of it; it must not wait, for by then we may be on the way out ourselves.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        keep_alive_s: float,
        on_hang_up: Callable[[], None] | None = None,
    ) -> None:
        self._on_hang_up = on_hang_up
        super().__init__(kept_alive(told_of_errors(events), period_s=keep_alive_s), headers=HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Starlette leaves it to send() to find out, which on some servers never does.
        sending = asyncio.create_task(self.stream_response(send))
        listening = asyncio.create_task(self.listen_for_disconnect(receive))
        has_gone = True  # to be cancelled is to be told so, by Ray Serve
        try:
            await asyncio.wait({sending, listening}, return_when=asyncio.FIRST_COMPLETED)
            # A receive() that breaks says nothing of the client: Serve's does when its proxy was lost.
            has_gone = not sending.done() and listening.exception() is None
            if sending.done():
                sending.result()
        finally:
            if has_gone and self._on_hang_up is not None:
                self._on_hang_up()
            for task in (sending, listening):
                task.cancel()
            await asyncio.gather(sending, listening, return_exceptions=True)

    async def stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self.body_iterator) as chunks:  # type: ignore[type-var]  # it is a generator of ours
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def told_of_errors(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The status is sent already: what goes wrong now comes as an event in OpenAI's shape, and the stream ends."""
    async with aclosing(events):
        try:
            async for chunk in events:
                yield chunk
        except AppError as error:
            yield event("error", {"type": "error", **error.body()})
        except Exception:  # noqa: BLE001 - the outermost loop of this answer: our bug, logged, and told without
            log.exception("unexpected error in a stream")
            yield event("error", {"type": "error", **AppError("Something went wrong on our side.").body()})


async def kept_alive(events: AsyncGenerator[bytes, None], *, period_s: float) -> AsyncGenerator[bytes, None]:
    """A comment whenever nothing was said for `period_s`, so that nobody on the way takes the line for dead."""
    async with aclosing(events):
        upcoming = asyncio.create_task(_next(events))
        try:
            while True:
                await asyncio.wait({upcoming}, timeout=period_s)
                if not upcoming.done():
                    yield KEEP_ALIVE
                elif (chunk := upcoming.result()) is None:
                    return
                else:
                    yield chunk
                    upcoming = asyncio.create_task(_next(events))
        finally:
            # A generator that is being read cannot be closed.
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)


async def _next(events: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(events, None)
