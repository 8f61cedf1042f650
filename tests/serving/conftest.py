"""A fresh database for each test, and a whole Darkroom over it."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr
from pymongo import AsyncMongoClient

from configs.settings import LogSettings, MongoSettings
from serving.mongo import Mongo
from serving.telemetry import configure_logging
from tests.serving.house import House, open_house

OpenHouse = Callable[..., Awaitable[House]]


@pytest.fixture(scope="session", autouse=True)
def logging_is_set_up() -> None:
    """Before the first log line: loggers remember the set-up that they first meet."""
    configure_logging(LogSettings(), component="test", log_dir=None)


@pytest_asyncio.fixture
async def mongo_settings(mongo_url: str) -> AsyncIterator[MongoSettings]:
    async with fresh_database(mongo_url) as settings:
        yield settings


@pytest_asyncio.fixture(scope="module")
async def module_mongo_settings(mongo_url: str) -> AsyncIterator[MongoSettings]:
    async with fresh_database(mongo_url) as settings:
        yield settings


@pytest_asyncio.fixture
async def mongo(mongo_settings: MongoSettings) -> AsyncIterator[Mongo]:
    gate = Mongo(mongo_settings)
    await gate.make_indexes()
    yield gate
    await gate.close()


@pytest_asyncio.fixture
async def raw(mongo_settings: MongoSettings) -> AsyncIterator[Any]:
    """The same database without our gate, to see what is really stored."""
    async with AsyncMongoClient(mongo_settings.url.get_secret_value()) as client:
        yield client[mongo_settings.database]


@pytest_asyncio.fixture
async def houses(mongo_settings: MongoSettings) -> AsyncIterator[OpenHouse]:
    """Opens houses with settings of the test's own; all over one database."""
    opened: list[House] = []

    async def open_one(**options: Any) -> House:
        opened.append(await open_house(mongo_settings, **options))
        return opened[-1]

    yield open_one
    for house in opened:
        await house.close()


@pytest_asyncio.fixture
async def house(houses: OpenHouse) -> House:
    return await houses()


@asynccontextmanager
async def fresh_database(url: str) -> AsyncIterator[MongoSettings]:
    settings = MongoSettings(url=SecretStr(url), database=f"darkroom_test_{uuid.uuid4().hex[:12]}")
    yield settings
    async with AsyncMongoClient(url) as client:
        await client.drop_database(settings.database)
