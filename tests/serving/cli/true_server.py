"""One call of the command against the true routes, over a socket; S3 is a dict."""

import asyncio
from collections import deque
from urllib.parse import unquote

import httpx
from typer.testing import CliRunner, Result

from serving.cli import app as cli
from tests.memory_blobs import MemoryBlobs
from tests.serving.house import House


class Wires(httpx.HTTPTransport):
    """The network, and at the blobs' address the blobs."""

    def __init__(self, blobs: MemoryBlobs, *, troubles: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.blobs = blobs
        self.sent: list[int] = []  # bytes, by PUT
        self._troubles = deque(troubles)  # statuses that the next PUTs get

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if not str(request.url).startswith(self.blobs.endpoint):
            return super().handle_request(request)
        if request.method == "PUT":
            data = request.read()
            self.sent.append(len(data))
            status = self._troubles.popleft() if self._troubles else self._put(request, data)
            return httpx.Response(status)
        return httpx.Response(200, content=self.blobs.get(unquote(request.url.path).split("/", 2)[2]))

    def _put(self, request: httpx.Request, data: bytes) -> int:
        # As S3 does: a pre-signed URL together with an Authorization header is refused, and so are chunks.
        if "Authorization" in request.headers or request.headers.get("Content-Length") != str(len(data)):
            return 400
        return self.blobs.send(str(request.url), data, request.headers)


async def darkroom(house: House, address: str, *args: str, wires: Wires | None = None) -> Result:
    """As alice."""
    key = house.alice.headers["Authorization"].removeprefix("Bearer ")
    given = [*args, "--url", address, "--key", key]
    return await asyncio.to_thread(CliRunner().invoke, cli.app, given, obj=wires or Wires(house.blobs))
