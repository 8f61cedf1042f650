"""A local fal.ai, and a dataset to send there."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.fake_fal import FakeFal, fake_fal
from tests.models.lora_bytes import lora_bytes
from tests.serving.training.fal.attempts import Attempts
from tests.training.stills import film, prepare_order
from training.prepare import prepare


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    prepare(prepare_order(folder, film(folder, 6)).to_dict(), lambda _: None)
    return folder


@pytest.fixture(scope="module")
async def server() -> AsyncGenerator[FakeFal, None]:
    async with fake_fal() as this:
        yield this


@pytest.fixture
def fal(server: FakeFal) -> FakeFal:
    server.renew(file=lora_bytes())
    return server


@pytest.fixture
def attempts(fal: FakeFal, dataset: Path, tmp_path: Path) -> Attempts:
    (tmp_path / "dataset").symlink_to(dataset / "dataset")
    return Attempts(fal, tmp_path)
