"""A receiver of webhooks as a tenant would run one: a true HTTP server that verifies with their published package."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tests.serving.house import eventually

HERE = {"allow": ["127.0.0.0/8"]}  # the operator's word for the outbound settings
HANG = 0  # instead of a status


@dataclass(frozen=True)
class Got:
    """One request that came."""

    headers: dict[str, str]
    body: bytes

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event

    @property
    def type(self) -> str:
        return str(self.event["type"])

    @property
    def job_id(self) -> str:
        return str(self.event["data"]["id"])

    def is_signed_with(self, secret: str) -> bool:
        try:
            Webhook(secret).verify(self.body, self.headers)
        except WebhookVerificationError:
            return False
        return True


@dataclass
class Receiver:
    """Answers with `answers` in turn, then with `status`. Keeps all that came, in order."""

    port: int = 0
    status: int = 204
    retry_after: str | None = None
    answers: list[int] = field(default_factory=list)
    got: list[Got] = field(default_factory=list)
    num_here: int = 0
    most_here: int = 0
    delay_s: float = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks"

    @property
    def types(self) -> list[str]:
        return [got.type for got in self.got]

    async def until(self, num_got: int) -> None:
        await eventually(lambda: len(self.got) >= num_got)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_here += 1
        self.most_here = max(self.most_here, self.num_here)
        try:
            self.got.append(await _read(reader))
            status = self.answers.pop(0) if self.answers else self.status
            await asyncio.sleep(self.delay_s)
            if status == HANG:
                await reader.read()  # until they hang up
                return
            retry_after = "" if self.retry_after is None else f"Retry-After: {self.retry_after}\r\n"
            writer.write(f"HTTP/1.1 {status} Said\r\nContent-Length: 5\r\n{retry_after}\r\nheard".encode())
            await writer.drain()
        finally:
            self.num_here -= 1
            writer.close()


@asynccontextmanager
async def receiver(**options: Any) -> AsyncIterator[Receiver]:
    this = Receiver(**options)
    listening = await asyncio.start_server(this.serve, "127.0.0.1", 0)
    this.port = listening.sockets[0].getsockname()[1]
    try:
        yield this
    finally:
        listening.close()


def by_job(got: Iterable[Got]) -> dict[str, list[str]]:
    """The types of events that came of each job, in order."""
    told: dict[str, list[str]] = {}
    for one in got:
        told.setdefault(one.job_id, []).append(one.type)
    return told


async def _read(reader: asyncio.StreamReader) -> Got:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
    headers |= {line.split(": ", 1)[0].lower(): line.split(": ", 1)[1] for line in head.split("\r\n")[1:] if line}
    return Got(headers, await reader.readexactly(int(headers["content-length"])))
