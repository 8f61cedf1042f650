"""Calls to URLs that clients named: checked, bounded in time and bytes, past no proxy. Knows no tenant and no job."""

import asyncio
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import urljoin

import httpcore

from configs.settings import OutboundSettings
from serving.outbound.errors import NoAnswer, OutboundError, TookTooLong, TooMuch
from serving.outbound.guard import Guard, GuardedNetwork, Resolver, system_resolver
from serving.outbound.target import Target, parse_target

USER_AGENT = "Darkroom"
MAX_REDIRECTS = 3
OK = 200
REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Answer:
    """What the other server said. `is_cut`: there was more, which nobody read."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    is_cut: bool = False


class Outbound:
    """One per process. Keeps no connection: the next call looks and checks anew."""

    def __init__(
        self, settings: OutboundSettings, *, resolve: Resolver | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._settings = settings
        self._guard = Guard(settings.allow, resolve or system_resolver())
        self._tls = tls or httpcore.default_ssl_context()

    async def check_url(self, url: str) -> None:
        """Raises BadTarget when `url` could not be called now. It is checked again whenever it is called."""
        target = parse_target(url)
        with _failures_told(self._settings.lookup_timeout_s):
            async with asyncio.timeout(self._settings.lookup_timeout_s):
                await self._guard.addresses_of(target.host, target.port)

    async def post(
        self, url: str, body: bytes, *, headers: Mapping[str, str], timeout_s: float, max_bytes: int
    ) -> Answer:
        """One POST. Follows no redirect; of a longer answer the first `max_bytes`. Raises OutboundError."""
        with _failures_told(timeout_s):
            async with asyncio.timeout(timeout_s):
                return await self._call("POST", parse_target(url), headers, body, max_bytes)

    async def get(self, url: str, *, timeout_s: float, max_bytes: int) -> Answer:
        """A whole file, redirects followed, each checked like the first. Raises OutboundError, TooMuch among them."""
        with _failures_told(timeout_s):
            async with asyncio.timeout(timeout_s):
                return await self._follow(url, max_bytes)

    async def download(self, url: str, file: BinaryIO, *, timeout_s: float, max_bytes: int) -> Answer:
        """As get(), but the body of a 200 is written to `file` as it comes, and the answer's own stays empty.

        A file that cannot be written is an OSError; what has been written by then is left there, as it is.
        """
        with _failures_told(timeout_s):
            async with asyncio.timeout(timeout_s):
                return await self._follow(url, max_bytes, file)

    async def _follow(self, url: str, max_bytes: int, file: BinaryIO | None = None) -> Answer:
        for _ in range(1 + MAX_REDIRECTS):
            answer = await self._call("GET", parse_target(url), {}, None, max_bytes, file)
            if answer.status not in REDIRECTS or "location" not in answer.headers:
                if answer.is_cut:
                    raise TooMuch(f"The answer is larger than {max_bytes} bytes.")
                return answer
            url = urljoin(url, answer.headers["location"])
        raise NoAnswer(f"More than {MAX_REDIRECTS} redirects.")

    async def _call(
        self,
        method: str,
        target: Target,
        headers: Mapping[str, str],
        body: bytes | None,
        max_bytes: int,
        file: BinaryIO | None = None,
    ) -> Answer:
        connection = httpcore.AsyncHTTPConnection(
            origin=httpcore.Origin(target.scheme.encode(), target.host.encode(), target.port),
            ssl_context=self._tls,
            network_backend=GuardedNetwork(self._guard),
        )
        # Without a compressed answer its size is what it takes.
        own = {"Host": target.authority, "User-Agent": USER_AGENT, "Accept-Encoding": "identity", "Connection": "close"}
        url = httpcore.URL(
            scheme=target.scheme, host=target.host.encode(), port=target.port, target=target.path.encode()
        )
        try:
            async with connection.stream(
                method, url, headers=[*(own | dict(headers)).items()], content=body
            ) as response:
                taken, is_cut = await _read(response, max_bytes, file if response.status == OK else None)
                return Answer(response.status, _headers_of(response), taken, is_cut)
        finally:
            await connection.aclose()


async def _read(response: httpcore.Response, max_bytes: int, file: BinaryIO | None) -> tuple[bytes, bool]:
    """The first `max_bytes` of the body, and whether there was more. Where there is a file, it gets them instead."""
    body, num_bytes = bytearray(), 0
    async for chunk in response.aiter_stream():
        taken = chunk[: max_bytes - num_bytes]
        num_bytes += len(chunk)
        if file is None:
            body += taken
        else:
            await asyncio.to_thread(file.write, taken)
        if num_bytes > max_bytes:
            return bytes(body), True
    return bytes(body), False


def _headers_of(response: httpcore.Response) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}


@contextmanager
def _failures_told(timeout_s: float) -> Iterator[None]:
    """The one table from what may happen on a network to our errors."""
    try:
        yield
    except OutboundError:
        raise
    except (TimeoutError, httpcore.TimeoutException) as error:
        raise TookTooLong(f"No complete answer within {timeout_s:g} s.") from error
    except httpcore.ProtocolError as error:
        raise NoAnswer("The answer is not proper HTTP.") from error
    except httpcore.NetworkError as error:
        is_about_trust = isinstance(_root_of(error), ssl.SSLError)
        raise NoAnswer("No TLS connection." if is_about_trust else "No connection.") from error


def _root_of(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
