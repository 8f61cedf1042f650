"""What all tests of the HTTP surface share: how an error looks, and a good request."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest_asyncio

from configs.settings import MongoSettings
from tests.serving.house import House, open_house

OPENAI, NATIVE = "/v1/images/generations", "/v1/generate/image"
GOOD: dict[str, Any] = {"prompt": "a red apple", "size": "64x64", "num_inference_steps": 1, "seed": 7}


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
