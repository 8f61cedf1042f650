"""The queue's bench: plans are read right, a race that lost a job is no figure, and all of it runs on a true queue."""

import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from configs.settings import PROJECT_DIR
from tests.serving.conftest import fresh_database
from tests.serving.house import open_house

INDEXED = {
    "queryPlanner": {"winningPlan": {"stage": "FETCH", "inputStage": {"stage": "IXSCAN", "indexName": "line_1"}}}
}
# As newer servers nest it, with the plans that were not taken beside it.
SCANNED = {
    "queryPlanner": {
        "winningPlan": {"isCached": False, "queryPlan": {"stage": "SORT", "inputStage": {"stage": "COLLSCAN"}}},
        "rejectedPlans": [{"stage": "IXSCAN"}],
    }
}


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Iterator[None]:
    """Where the bench's parts find each other."""
    sys.path.insert(0, str(PROJECT_DIR / "scripts"))
    yield
    sys.path.remove(str(PROJECT_DIR / "scripts"))


@pytest.fixture(scope="module")
def bench(scripts: None) -> ModuleType:
    return import_module("bench_jobs")


@pytest.fixture(scope="module")
def plans(scripts: None) -> ModuleType:
    return import_module("jobs_plans")


@pytest.fixture(scope="module")
def queue(scripts: None) -> ModuleType:
    return import_module("jobs_queue")


def row(bench: ModuleType, what: str, p50_ms: float) -> Any:
    return bench.summarise(what, 1, [p50_ms], 1.0)


def test_what_grows_with_the_queue_misses_its_aim(bench: ModuleType) -> None:
    rows = [
        row(bench, "claim_next, 1000 queued", 1.0),
        row(bench, "claim_next, 10000 queued", 9.0),  # a bad moment between; the ends are compared
        row(bench, "claim_next, 100000 queued", 1.9),
        row(bench, "insert, 1000 queued", 1.0),
        row(bench, "insert, 100000 queued", 2.1),
        row(bench, "count_queued, 1000 queued", 1.0),
        row(bench, "count_queued, 100000 queued", 90.0),
        row(bench, "claims", 1.0),
    ]
    aims = bench.verdicts(rows, {"claim_next": ["IXSCAN line_1"], "heads": ["COLLSCAN"], "insert": []})
    assert aims == {
        "claim_next: 100000 queued at most 2 × 1000": True,
        "insert: 100000 queued at most 2 × 1000": False,
        "claim_next: by an index": True,
        "heads: by an index": False,
    }


def test_a_mongodb_plan_is_read_with_its_indexes(plans: ModuleType) -> None:
    assert plans.mongodb_steps(INDEXED) == ["FETCH", "IXSCAN line_1"]
    assert plans.mongodb_steps(SCANNED) == ["SORT", "COLLSCAN"]
    assert plans.mongodb_steps({}) == []


@pytest.mark.parametrize(
    ("plan", "is_bounded"),
    [
        (["FETCH", "IXSCAN line_1"], True),
        (["SORT", "IXSCAN line_1"], False),
        (["COLLSCAN"], False),
        (["SEARCH jobs USING INDEX idx_jobs_line (<expr>>? AND <expr><?)"], True),
        (["SCAN jobs"], False),
        (["SEARCH jobs USING INDEX idx_jobs_line (<expr>>?)", "USE TEMP B-TREE FOR ORDER BY"], False),
        ([], False),
    ],
)
def test_a_plan_that_reads_or_sorts_everything_is_not_bounded(
    plans: ModuleType, plan: list[str], is_bounded: bool
) -> None:
    assert plans.is_bounded(plan) is is_bounded


def test_sqlite_tells_how_it_goes_about_what_was_run(plans: ModuleType) -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript("CREATE TABLE jobs (a INTEGER, b INTEGER); CREATE INDEX by_a ON jobs (a)")
    ran: list[str] = []
    connection.set_trace_callback(ran.append)
    connection.execute("SELECT a FROM jobs WHERE a > ? ORDER BY a", (1,))
    connection.execute("SELECT b FROM jobs WHERE b = ?", (1,))
    connection.execute("PRAGMA table_info(jobs)")
    connection.set_trace_callback(None)
    by_index, by_reading = (plans.sqlite_steps(connection, [statement]) for statement in ran[:2])
    assert plans.is_bounded(by_index)
    assert not plans.is_bounded(by_reading)
    assert plans.sqlite_steps(connection, ran[2:]) == []


@pytest.mark.parametrize("claimed", [["a", "b"], ["a", "b", "b"], ["a", "b", "c", "c"]])
def test_a_race_in_which_a_job_is_missing_or_claimed_twice_is_no_figure(queue: ModuleType, claimed: list[str]) -> None:
    with pytest.raises(queue.BenchFailed, match=f"{len(claimed)} were claimed"):
        queue.check_race([(job_id, 1.0) for job_id in claimed], 3)
    queue.check_race([(job_id, 1.0) for job_id in "abc"], 3)


def server(*, submit: int = 202, poll: int = 200, cancel: int = 200) -> Callable[[httpx.Request], httpx.Response]:
    def handle(request: httpx.Request) -> httpx.Response:
        status = poll if request.method == "GET" else cancel if request.url.path.endswith("/cancel") else submit
        return httpx.Response(status, json={"id": request.url.path.rpartition("/")[2]})

    return handle


@pytest.mark.parametrize(("refused", "words"), [("submit", "503"), ("poll", "503"), ("cancel", "503")])
async def test_what_is_refused_ends_the_bench(bench: ModuleType, refused: str, words: str) -> None:
    transport = httpx.MockTransport(server(**{refused: 503}))
    async with httpx.AsyncClient(base_url="http://api.test", transport=transport) as http:
        with pytest.raises(bench.BenchFailed, match=words):
            await bench.JobsOverHttp(http, model="m").measure(2, num_submits=4, num_polls=4)


async def test_jobs_are_submitted_polled_and_cancelled_over_the_true_routes(bench: ModuleType, mongo_url: str) -> None:
    async with fresh_database(mongo_url) as settings:
        house = await open_house(settings)
        house.backend.gate.clear()
        try:
            over_http = bench.JobsOverHttp(house.alice, model=house.backend.id.partition(":")[2])
            rows = await over_http.measure(2, num_submits=6, num_polls=9)
            jobs = await house.store.page("alice", status=None, kind=None, limit=100, after=None)
        finally:
            await house.close()
    assert [(row.what, row.num_requests) for row in rows] == [("submit", 6), ("poll", 9)]
    assert [job.status for job in jobs] == ["cancelled"] * 8


def test_claims_and_depths_are_measured_on_a_true_queue(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DARKROOM_MONGO_URL", raising=False)
    out = tmp_path / "jobs.json"
    small = ["--routers", "2", "--claims", "40", "--tenants", "4", "--depths", "20", "60", "--times", "10"]
    assert bench.main(["--parts", "claims", "depth", *small, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    names = [row["what"] for row in report["rows"]]
    assert names[0] == "claims"
    assert {"claim_next, 20 queued", "claim_next, 60 queued", "insert, 60 queued"} < set(names)
    by_index = {name: is_met for name, is_met in report["aims"].items() if name.endswith("by an index")}
    assert len(by_index) == 7
    assert all(by_index.values()), report["plans"]


def test_depths_that_the_measuring_would_empty_are_refused(bench: ModuleType) -> None:
    with pytest.raises(SystemExit):
        bench.parse_args(["--depths", "100", "--times", "100"])
