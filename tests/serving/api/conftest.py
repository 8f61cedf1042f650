"""What all tests of the HTTP surface share: how an error looks, and a good request."""

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest_asyncio
from PIL import Image

from configs.settings import MongoSettings
from tests.serving.house import House, on_a_port, open_house

OPENAI, NATIVE, EDITS = "/v1/images/generations", "/v1/generate/image", "/v1/images/edits"
GOOD: dict[str, Any] = {"prompt": "a red apple", "size": "64x64", "num_inference_steps": 1, "seed": 7}


def events_of(answer: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    """The events of a whole stream, comments left out."""
    assert answer.status_code == 200, answer.text[:500]
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    return [read for block in answer.text.split("\n\n") if (read := read_event(block)) is not None]


def read_event(block: str) -> tuple[str, dict[str, Any]] | None:
    """One event's name and data, or None for a comment."""
    if not block or block.startswith(":"):
        return None
    name, data = block.split("\n")
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


@asynccontextmanager
async def listening(
    house: House, method: str, path: str, body: dict[str, Any] | None = None
) -> AsyncIterator[AsyncIterator[str]]:
    """The lines of a stream of alice's, over a true socket, as they come."""
    async with (
        on_a_port(house.app) as url,
        httpx.AsyncClient(headers=house.alice.headers, timeout=20) as client,
        client.stream(method, f"{url}{path}", json=body) as answer,
    ):
        yield answer.aiter_lines()


def picture_bytes(
    width_px: int = 64, height_px: int = 64, *, format: str = "PNG", mode: str = "RGB", color: Any = "red"
) -> bytes:
    out = io.BytesIO()
    Image.new(mode, (width_px, height_px), color).save(out, format)
    return out.getvalue()


def mask_bytes(width_px: int = 64, height_px: int = 64) -> bytes:
    """Transparent in its left upper corner."""
    mask = Image.new("RGBA", (width_px, height_px), "black")
    mask.paste((0, 0, 0, 0), (0, 0, width_px // 2, height_px // 2))
    out = io.BytesIO()
    mask.save(out, "PNG")
    return out.getvalue()


def assert_error(answer: httpx.Response, status: int, *, code: str | None = None, param: str | None = None) -> str:
    """OpenAI's error object with exactly its four keys, a request id, and nothing of our insides; its message."""
    assert answer.status_code == status, answer.text[:500]
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert len(body["error"]["message"]) < 1_000
    assert "Traceback" not in answer.text
    assert answer.headers["X-Request-Id"]
    if code is not None:
        assert body["error"]["code"] == code
    if param is not None:
        assert body["error"]["param"] == param
    return str(body["error"]["message"])


@pytest_asyncio.fixture(scope="module")
async def shared(module_mongo_settings: MongoSettings) -> AsyncIterator[House]:
    """One house for all tests of a file: what one of them does must not harm the next."""
    house = await open_house(module_mongo_settings)
    yield house
    await house.close()


@pytest_asyncio.fixture
async def the_next_request_is_answered_as_before(shared: House) -> AsyncIterator[None]:
    yield
    assert (await shared.alice.post(OPENAI, json=GOOD)).status_code == 200
