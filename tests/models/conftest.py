"""Fixtures of the models room: tiny folders."""

import shutil
from pathlib import Path

import pytest

from tests.models.tiny import make_tiny_flux, make_tiny_sd, make_tiny_sdxl
from tests.models.tiny_flow import make_tiny_qwen_image, make_tiny_sd3, make_tiny_z_image


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_sd(tmp_path_factory.mktemp("tiny") / "sd")


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_sdxl(tmp_path_factory.mktemp("tiny") / "sdxl")


@pytest.fixture(scope="session")
def tiny_flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_flux(tmp_path_factory.mktemp("tiny") / "flux")


@pytest.fixture(scope="session")
def tiny_sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_sd3(tmp_path_factory.mktemp("tiny") / "sd3")


@pytest.fixture(scope="session", name="tiny_z-image")
def tiny_z_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_z_image(tmp_path_factory.mktemp("tiny") / "z-image")


@pytest.fixture(scope="session", name="tiny_qwen-image")
def tiny_qwen_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_qwen_image(tmp_path_factory.mktemp("tiny") / "qwen-image")


@pytest.fixture
def sd_copy(tiny_sd: Path, tmp_path: Path) -> Path:
    """A folder that a test may spoil."""
    return Path(shutil.copytree(tiny_sd, tmp_path / "sd-copy"))
