"""The application behind a true socket, and waiting for what a test expects to become true."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

WAIT_DEADLINE_S = 20.0


@asynccontextmanager
async def on_a_port(app: ASGIApp) -> AsyncIterator[str]:
    """The application behind a true server and socket, where answers stream and clients can hang up; its address."""
    # Only where the protocol is named does asyncio send at once; else each answer in two parts waits 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await eventually(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


async def eventually(condition: Callable[[], Any], *, timeout_s: float = WAIT_DEADLINE_S) -> None:
    """Waits until `condition`, a function or a coroutine function, is true."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        outcome = condition()
        if await outcome if asyncio.iscoroutine(outcome) else outcome:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not become true in time")
