"""Fixtures of the pipelines room: an engine for each family on tiny folders, loaded once, and what it has promised."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from models.spec import Family
from pipelines.loop import StepLoop
from pipelines.request import GenerationRequest
from tests.pipelines.bench import MAKERS, Bench, make_bench
from tests.pipelines.mixed import mixed_requests
from tests.pipelines.reference import Pixels


@dataclass(frozen=True)
class Promise:
    """Requests by name, and the pictures that plain diffusers makes of each alone."""

    requests: dict[str, GenerationRequest]
    plain: dict[str, list[Pixels]]


@pytest.fixture(autouse=True)
def packing_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many rows as fit go together: times of models this small, on a busy machine, would decide by chance."""
    monkeypatch.setattr(StepLoop, "_step_s", lambda _self, _width_px, _height_px, _num_rows: 0.001)


@pytest.fixture(scope="session")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Family, Bench]]:
    base = tmp_path_factory.mktemp("benches")
    benches = {family: make_bench(family, base) for family in MAKERS}
    yield benches
    for bench in benches.values():
        bench.engine.close()


@pytest.fixture(scope="session")
def promises(benches: dict[Family, Bench]) -> dict[Family, Promise]:
    """Filled by `promise`, family by family."""
    return {}


@pytest.fixture(params=list(MAKERS))
def bench(request: pytest.FixtureRequest, benches: dict[Family, Bench]) -> Bench:
    return benches[request.param]


@pytest.fixture
def sd(benches: dict[Family, Bench]) -> Bench:
    return benches["sd"]


@pytest.fixture
def promise(bench: Bench, promises: dict[Family, Promise]) -> Promise:
    return _promise(bench, promises)


@pytest.fixture
def sd_promise(sd: Bench, promises: dict[Family, Promise]) -> Promise:
    return _promise(sd, promises)


def _promise(bench: Bench, promises: dict[Family, Promise]) -> Promise:
    if bench.family not in promises:
        requests = mixed_requests(bench)
        plain = {name: bench.plain(request) for name, request in requests.items()}
        promises[bench.family] = Promise(requests, plain)
    return promises[bench.family]
