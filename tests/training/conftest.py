"""Fixtures of the training room: tiny folders of the families that can be trained."""

from pathlib import Path

import pytest

from models.spec import Family
from tests.training.tiny_learning import MAKERS


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, Path]:
    base = tmp_path_factory.mktemp("tiny-training")
    return {family: make(base / family) for family, make in MAKERS.items()}
