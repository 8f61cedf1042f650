"""The serving bench does its sums right and refuses to report what it could not measure."""

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from configs.settings import PROJECT_DIR


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_serving", PROJECT_DIR / "scripts/bench_serving.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_serving"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def server(
    timing: str | None, *, status: int = 200, engine_s: float = 0.01
) -> Callable[[httpx.Request], httpx.Response]:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"id": "job_1"})
        headers = {"Server-Timing": timing} if timing else {}
        return httpx.Response(status, json={"job_id": "job_1", "inference_time_s": engine_s}, headers=headers)

    return handle


async def measure(bench: ModuleType, handle: Callable[[httpx.Request], httpx.Response], *args: str) -> list:
    parsed: argparse.Namespace = bench.parse_args(["--requests", "8", "--polls", "8", "--warmup", "1", *args])
    async with httpx.AsyncClient(base_url="http://api.test", transport=httpx.MockTransport(handle)) as http:
        return await bench.Bench(http, parsed).measure()


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (95, 95), (99, 99), (100, 100)])
def test_percentiles_are_values_that_were_measured(bench: ModuleType, percent: int, expected: int) -> None:
    assert bench.percentile(list(range(100, 0, -1)), percent) == expected
    assert bench.percentile([3.0], percent) == 3.0


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("engine;dur=12.5, queue;dur=3", {"engine": 12.5, "queue": 3.0}),
        ('queue;desc="a wait";dur="0.5",engine; dur=1e3', {"queue": 0.5, "engine": 1000.0}),
        ("cache;desc=hit", {}),
        ("", {}),
    ],
)
def test_server_timing_is_read_as_browsers_read_it(bench: ModuleType, header: str, expected: dict) -> None:
    assert bench.parse_server_timing(header) == expected


async def test_engine_and_queue_are_taken_off_and_each_level_gets_its_rows(bench: ModuleType) -> None:
    rows = await measure(bench, server("engine;dur=10, queue;dur=5"), "--concurrency", "1", "4")
    by_name = {(row.what, row.concurrency): row for row in rows}
    added, total = by_name["image: added", 4], by_name["image: total", 4]
    assert added.p50_ms == pytest.approx(total.p50_ms - 15)
    assert {row.num_requests for row in rows} == {8}
    assert ("poll of a job", 1) in by_name
    assert len(bench.verdicts(rows)) == 4


@pytest.mark.parametrize(
    ("timing", "status", "engine_s", "words"),
    [
        (None, 200, 0.01, "no Server-Timing"),
        ("engine;dur=10", 200, 0.01, "no Server-Timing"),
        ("engine;dur=90, queue;dur=0", 200, 0.01, "disagree"),
        ("engine;dur=10, queue;dur=0", 429, 0.01, "429"),
    ],
)
async def test_what_cannot_be_measured_ends_the_bench(
    bench: ModuleType, timing: str | None, status: int, engine_s: float, words: str
) -> None:
    with pytest.raises(bench.BenchFailed, match=words):
        await measure(bench, server(timing, status=status, engine_s=engine_s), "--concurrency", "2")


def test_the_report_holds_rows_aims_and_the_machine(bench: ModuleType, tmp_path: Path) -> None:
    rows = [bench.summarise(bench.ADDED, 1, [20.0], 1.0), bench.summarise(bench.POLL, 1, [2.0], 1.0)]
    aims = bench.verdicts(rows)
    bench.write_json(tmp_path / "a/b.json", rows, aims, bench.parse_args([]))
    report = json.loads((tmp_path / "a/b.json").read_text())
    assert list(report["aims"].values()) == [False, True]
    assert report["rows"][0]["p50_ms"] == 20.0
    assert report["num_cores"] >= 1
