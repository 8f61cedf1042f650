"""True servers to call, and a name service that says what a test wants."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from configs.settings import OutboundSettings
from serving.outbound import Answer, Outbound

HERE = (IPv4Network("127.0.0.0/8"),)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Talk = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(talk: Talk | bytes, *, tls: ssl.SSLContext | None = None) -> AsyncIterator["Server"]:
    """Answers every connection with `talk`, which gets the head of the request."""
    this = Server()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            this.heads.append(head.decode())
            if isinstance(talk, bytes):
                writer.write(talk)
                await writer.drain()
            else:
                await talk(head, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            this.num_hung_up += 1
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    this.port = listening.sockets[0].getsockname()[1]
    try:
        yield this
    finally:
        listening.close()


class Server:
    port: int

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.num_hung_up = 0

    def url(self, path: str = "/", host: str = "hooks.test", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"


class Names:
    """A name service that answers each question with the next of its answers, and the last one from then on."""

    def __init__(self, *answers: Sequence[str] | OSError) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer


def outbound(names: Any = None, allow: Sequence[IPv4Network | IPv6Network] = HERE, **options: Any) -> Outbound:
    settings = OutboundSettings(allow=tuple(allow), lookup_timeout_s=options.pop("lookup_timeout_s", 5.0))
    return Outbound(settings, resolve=names or Names(["127.0.0.1"]), **options)


async def post(client: Outbound, url: str, **changes: Any) -> Answer:
    limits = {"timeout_s": 5.0, "max_bytes": 1_000} | changes
    return await client.post(url, b'{"a": 1}', headers={"Content-Type": "application/json"}, **limits)


async def get(client: Outbound, url: str, **changes: Any) -> Answer:
    return await client.get(url, **({"timeout_s": 5.0, "max_bytes": 1_000} | changes))
