"""From a host to the addresses that may be connected to, and the network that connects to nothing else.

A name is looked up right before connecting, all of its addresses are checked, and the connection goes to one of the
checked ones: a name that leads elsewhere a moment later (DNS rebinding) changes nothing. Knows no HTTP.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import httpcore

from serving.outbound.addresses import Network, is_allowed
from serving.outbound.errors import BadTarget

MAX_ADDRESSES = 4  # of one name that are tried
# Lookups have threads of their own: names that hang must not hold up the object store, which works in threads too.
NUM_LOOKUPS = 16

# A host and a port → its addresses as text. Raises OSError where there are none.
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


class Guard:
    """Says where a host name leads, if clients may send us there."""

    def __init__(self, allow: Sequence[Network], resolve: Resolver) -> None:
        self._allow = allow
        self._resolve = resolve

    async def addresses_of(self, host: str, port: int) -> list[str]:
        """Raises BadTarget unless every address is allowed: a name that leads to both kinds is up to something.

        The same words for a name that does not exist: a caller must not learn which internal names do.
        """
        refusal = BadTarget("The URL's host does not lead to a public address.")
        try:
            found = [host] if _is_address(host) else await self._resolve(host, port)
            addresses = [ip_address(text) for text in found]
        except (OSError, ValueError) as error:
            raise refusal from error
        if not addresses or not all(is_allowed(address, self._allow) for address in addresses):
            raise refusal
        return list(dict.fromkeys(str(address) for address in addresses))[:MAX_ADDRESSES]


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to addresses that the guard has just checked, and to those only."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """TLS is httpcore's, on top of this, and still verifies the name."""
        failure: Exception = httpcore.ConnectError("no address")
        for address in await self._guard.addresses_of(host, port):
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[SocketOption] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise AssertionError("no URL of a client leads to a socket of this machine")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def system_resolver() -> Resolver:
    """The machine's own name service."""
    threads = ThreadPoolExecutor(NUM_LOOKUPS, thread_name_prefix="lookup")

    async def resolve(host: str, port: int) -> list[str]:
        def look_up() -> list[str]:
            return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]

        return await asyncio.get_running_loop().run_in_executor(threads, look_up)

    return resolve
