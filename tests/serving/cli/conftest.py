"""A fake server and a world of its own for every test."""

import os
from pathlib import Path

import pytest

from tests.serving.cli.fake_server import FakeDarkroom


@pytest.fixture
def server() -> FakeDarkroom:
    return FakeDarkroom()


@pytest.fixture(autouse=True)
def _own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable and no state folder of whoever runs the tests."""
    for name in os.environ:
        if name.startswith("DARKROOM_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
