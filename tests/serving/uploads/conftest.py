"""A bench for every test, over a database of its own."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from configs.settings import MongoSettings
from serving.mongo import Mongo
from tests.serving.uploads.bench import Bench, bench_settings, make_bench

OpenBench = Callable[..., Bench]


@pytest.fixture
def benches(mongo: Mongo, mongo_settings: MongoSettings) -> OpenBench:
    """Makes benches with settings of the test's own."""

    def make(**uploads: Any) -> Bench:
        return make_bench(mongo, bench_settings(mongo_settings, **uploads))

    return make


@pytest_asyncio.fixture
async def bench(benches: OpenBench) -> AsyncIterator[Bench]:
    made = benches()
    yield made
    await made.uploads.close()
