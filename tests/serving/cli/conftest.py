"""A fake server and a world of its own for every test."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.serving.cli.fake_server import FakeDarkroom
from tests.serving.house import House, on_a_port


@pytest.fixture
def server() -> FakeDarkroom:
    return FakeDarkroom()


@pytest_asyncio.fixture
async def address(house: House) -> AsyncIterator[str]:
    """Of the true routes."""
    async with on_a_port(house.app) as url:
        yield url


@pytest.fixture(autouse=True)
def _own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable and no state folder of whoever runs the tests."""
    for name in os.environ:
        if name.startswith("DARKROOM_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
