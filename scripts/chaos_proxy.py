"""A TCP proxy that misbehaves on demand, between Darkroom and a store: refuses with 503, hangs, cuts, or passes.

It runs on a loop and a thread of its own. What it held back while it hung goes on afterwards: a request whose sender
has long given up then still arrives, as it does on real networks.
"""

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Literal

Mode = Literal["pass", "refuse", "hang", "cut"]
Address = tuple[str, int] | Path  # a host and port, or a Unix socket

CHUNK_BYTES = 65_536
CALL_TIMEOUT_S = 10.0
REFUSAL_BODY = b"<Error><Code>ServiceUnavailable</Code><Message>Please try again later.</Message></Error>"
REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(REFUSAL_BODY), REFUSAL_BODY)
)


class FaultProxy:
    """Listens on a free loopback port for as long as it is open."""

    def __init__(self, upstream: Address) -> None:
        self.port = 0
        self.mode: Mode = "pass"
        self._upstream = upstream
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]

    def set_mode(self, mode: Mode) -> None:
        """From here on, for open connections too."""
        self._call(self._change(mode))

    def stop(self) -> None:
        self._server.close()
        self._call(self._change("cut"))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT_S)

    async def _change(self, mode: Mode) -> None:
        self.mode = mode
        if mode == "hang":
            self._flowing.clear()
        else:
            self._flowing.set()
        if mode == "cut":
            for writer in list(self._writers):
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.mode != "cut":
                await self._connect(reader, writer)
        except OSError:
            pass  # either side went away; the other one is told by the abort below
        finally:
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(self._upstream, Path):
            up_reader, up_writer = await asyncio.open_unix_connection(self._upstream)
        else:
            up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        ends = {writer, up_writer}
        self._writers |= ends
        pumps = {asyncio.create_task(self._send(reader, up_writer, writer))}
        pumps.add(asyncio.create_task(self._receive(up_reader, writer)))
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in done:
                pump.result()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._writers -= ends
            up_writer.transport.abort()

    async def _send(
        self, reader: asyncio.StreamReader, up_writer: asyncio.StreamWriter, writer: asyncio.StreamWriter
    ) -> None:
        """From the client to the store, or the refusal back to the client."""
        while data := await reader.read(CHUNK_BYTES):
            await self._flowing.wait()
            if self.mode == "refuse":
                writer.write(REFUSAL)
                await writer.drain()
                writer.write_eof()
                return
            up_writer.write(data)
            await up_writer.drain()

    async def _receive(self, up_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await up_reader.read(CHUNK_BYTES):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - whatever the work gives
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_TIMEOUT_S)
