"""Whether a server answers: a MongoDB ping, an HTTP status. A probe says yes or no and never raises."""

import asyncio
import struct
from pathlib import Path
from typing import Any

import httpx

PROBE_TIMEOUT_S = 5.0
APP_NAME = "darkroom"  # under which serving.main deploys
OP_MSG = 2013
# {ping: 1, $db: "admin"} as BSON: enough to see the database work, without a driver.
PING = struct.pack("<i", 30) + b"\x10ping\0\x01\0\0\0" + b"\x02$db\0\x06\0\0\0admin\0" + b"\0"


async def mongo_answers(socket_path: Path) -> bool:
    """Whether the server on this socket answers a ping."""
    body = struct.pack("<i", 0) + b"\0" + PING
    message = struct.pack("<iiii", 16 + len(body), 1, 0, OP_MSG) + body
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(socket_path)
            try:
                writer.write(message)
                header = await reader.readexactly(16)
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    return bool(struct.unpack("<iiii", header)[3] == OP_MSG)


async def listens(port: int) -> bool:
    """Whether a process holds this loopback port; it need not find time to answer."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def http_answers(client: httpx.AsyncClient, url: str) -> bool:
    """Whether a GET gets a 2xx."""
    try:
        return (await client.get(url, timeout=PROBE_TIMEOUT_S)).is_success
    except httpx.HTTPError:
        return False


class ServeProbe:
    """What Ray Serve says of the application, asked at Ray's dashboard."""

    def __init__(self, client: httpx.AsyncClient, dashboard_url: str, token: str) -> None:
        self._client = client
        self._url = f"{dashboard_url}/api/serve/applications/"
        self._headers = {"Authorization": f"Bearer {token}"}

    async def has_given_up(self) -> bool:
        """Whether it has stopped trying to start a part of the application: nobody but a new deployment helps."""
        try:
            reply = await self._client.get(self._url, headers=self._headers, timeout=PROBE_TIMEOUT_S)
            status: Any = reply.json()["applications"][APP_NAME]["status"] if reply.is_success else None
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return False
        return bool(status == "DEPLOY_FAILED")


class AdminDoor:
    """The API as its operator: the order to stop, and how far that is. None where it gives no answer."""

    def __init__(self, client: httpx.AsyncClient, url: str, key: str) -> None:
        self._client = client
        self._url = f"{url}/v1/admin/drain"
        self._headers = {"Authorization": f"Bearer {key}"}

    async def begin_drain(self, *, within_s: float) -> int | None:
        """Nothing new begins from now on. How many jobs run."""
        return await self._ask("POST", {"within_s": within_s})

    async def num_running(self) -> int | None:
        return await self._ask("GET", None)

    async def _ask(self, method: str, body: dict[str, float] | None) -> int | None:
        try:
            reply = await self._client.request(
                method, self._url, json=body, headers=self._headers, timeout=PROBE_TIMEOUT_S
            )
            running: Any = reply.json()["running"] if reply.is_success else None
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return None
        return running if isinstance(running, int) else None


class ApiProbe:
    """What the API says of itself. `is_gone` differs from `slow`: nobody there, or only no answer in time."""

    def __init__(self, client: httpx.AsyncClient, host: str, port: int) -> None:
        shown = (
            "127.0.0.1"
            if host in {"0.0.0.0", ""}
            else "[::1]"
            if host == "::"
            else f"[{host}]"
            if ":" in host
            else host
        )
        self._client = client
        self._url = f"http://{shown}:{port}"

    async def is_gone(self) -> bool:
        """Nothing listens, or the proxy knows no application. A slow answer is not a missing one."""
        try:
            reply = await self._client.get(f"{self._url}/health/live", timeout=PROBE_TIMEOUT_S)
        except httpx.TimeoutException:
            return False
        except httpx.HTTPError:
            return True
        return not reply.is_success

    def admin_door(self, key: str) -> AdminDoor:
        return AdminDoor(self._client, self._url, key)

    async def missing(self) -> list[str] | None:
        """None: ready. Otherwise what is not there yet."""
        try:
            reply = await self._client.get(f"{self._url}/health/ready", timeout=PROBE_TIMEOUT_S)
        except httpx.HTTPError:
            return ["the API does not answer yet"]
        return None if reply.status_code == 200 else _read_missing(reply)


def _read_missing(reply: httpx.Response) -> list[str]:
    if reply.status_code == 404:
        return ["the API is not deployed yet"]  # the proxy speaks before it knows the application
    try:
        body: Any = reply.json()
    except ValueError:
        body = None
    found = body.get("missing") if isinstance(body, dict) else None
    return (
        [str(item) for item in found] if isinstance(found, list) and found else [f"the API answers {reply.status_code}"]
    )
