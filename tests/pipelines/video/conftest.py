"""Clips that several tests look at, made once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.clips import ODDITIES, Clip

Odd = Callable[[str], Clip]


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Odd:
    """A clip out of ODDITIES by name; not to be changed."""
    folder: Path = tmp_path_factory.mktemp("clips")
    return cache(lambda name: ODDITIES[name](folder))
