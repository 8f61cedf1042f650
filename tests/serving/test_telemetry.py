"""Logs and metrics: every line says which request, job and tenant; counters move, and add up over processes."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from configs.settings import LogSettings
from serving.telemetry import METRICS_DIR_ENV, configure_logging, get_logger
from tests.serving.api.conftest import GOOD, NATIVE, OPENAI
from tests.serving.house import House

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def log_dir(tmp_path: Path) -> Iterator[Path]:
    logger = logging.getLogger("darkroom")
    before = logger.handlers, logger.level
    configure_logging(LogSettings(level="debug"), component="test", log_dir=tmp_path)
    yield tmp_path
    for handler in set(logger.handlers) - set(before[0]):
        handler.close()
    logger.handlers, level = before[0], before[1]
    logger.setLevel(level)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "test.log").read_text("utf-8").splitlines()]


async def values_of(house: House) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = (await house.anonymous.get("/metrics")).text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_every_line_of_a_request_says_which_request_job_and_tenant(house: House, log_dir: Path) -> None:
    answer = await house.alice.post(OPENAI, json=GOOD, headers={"X-Request-Id": "req-of-mine"})
    job_id = answer.json()["job_id"]
    lines = [line for line in lines_of(log_dir) if line.get("request_id") == "req-of-mine"]
    by_event = {line["event"]: line for line in lines}
    assert {"job accepted", "job claimed", "backend chosen", "job ended", "answered"} <= set(by_event)
    for line in lines:
        assert line["tenant"] == "alice"
        assert {"level", "timestamp", "logger", "component"} <= set(line)
        if line["event"].startswith("job"):
            assert line["job_id"] == job_id
    assert by_event["job ended"]["status"] == "succeeded"
    answered = by_event["answered"]
    assert (answered["method"], answered["path"], answered["status"]) == ("POST", OPENAI, 200)
    assert answered["ms"] > 0


async def test_a_job_that_the_sweep_found_is_logged_under_the_request_that_made_it(house: House, log_dir: Path) -> None:
    house.router.is_lost = True
    answer = await house.alice.post(NATIVE, json=GOOD, headers={"X-Request-Id": "req-swept"})
    job = await house.store.get("alice", answer.json()["id"])
    await house.until(job, "succeeded")
    (claimed,) = [line for line in lines_of(log_dir) if line["event"] == "job claimed"]
    assert (claimed["request_id"], claimed["tenant"], claimed["job_id"]) == ("req-swept", "alice", job.id)


async def test_a_request_without_a_key_is_not_logged_under_the_tenant_before(house: House, log_dir: Path) -> None:
    await house.alice.get("/v1/jobs")
    await house.anonymous.get("/v1/jobs")
    named, nameless = [line for line in lines_of(log_dir) if line["event"] == "answered"]
    assert named["tenant"] == "alice"
    assert (nameless["status"], nameless.get("tenant")) == (401, None)
    assert nameless["request_id"] != named["request_id"]


async def test_prompts_and_keys_are_not_logged(house: House, log_dir: Path) -> None:
    await house.alice.post(OPENAI, json={**GOOD, "prompt": "a very private prompt"})
    text = (log_dir / "test.log").read_text("utf-8")
    assert "private" not in text
    assert house.alice.headers["Authorization"].removeprefix("Bearer ") not in text


async def test_health_checks_are_quiet(house: House, log_dir: Path) -> None:
    logging.getLogger("darkroom").setLevel("INFO")
    for path in ("/health", "/health/live", "/health/ready", "/metrics"):
        await house.anonymous.get(path)
    assert [line for line in lines_of(log_dir) if line["event"] == "answered"] == []


def test_an_exception_is_one_json_line_with_its_traceback(log_dir: Path) -> None:
    try:
        raise ZeroDivisionError("a bug")
    except ZeroDivisionError:
        get_logger("test").exception("it broke")
    (line,) = lines_of(log_dir)
    assert (line["event"], line["level"], line["component"]) == ("it broke", "error", "test")
    assert "ZeroDivisionError: a bug" in line["exception"]


async def test_counters_move_with_what_happens(house: House) -> None:
    await house.alice.post(OPENAI, json=GOOD)
    before = await values_of(house)
    await house.alice.post(OPENAI, json={**GOOD, "n": 2})
    await house.anonymous.get("/v1/jobs", headers={"Authorization": "Bearer dk-wrong"})
    after = await values_of(house)

    def moved(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after[key] - before.get(key, 0.0)

    model = "emoji-3d"
    assert moved("darkroom_jobs_accepted_total", kind="image", model=model) == 1
    assert moved("darkroom_jobs_ended_total", kind="image", model=model, status="succeeded") == 1
    assert moved("darkroom_images_total", model=model) == 2
    assert moved("darkroom_job_seconds_count", kind="image", model=model) == 1
    assert moved("darkroom_engine_seconds_count", model=model) == 1
    assert moved("darkroom_keep_seconds_count") == 1
    assert moved("darkroom_auth_failures_total") == 1
    assert moved("darkroom_http_requests_total", method="POST", route=OPENAI, status="200") == 1
    assert moved("darkroom_http_request_seconds_count", route=OPENAI) == 1
    assert after[("darkroom_jobs_driven", ())] == 0


async def test_labels_are_patterns_and_known_words_so_that_they_come_to_an_end(house: House) -> None:
    job_id = (await house.alice.post(OPENAI, json=GOOD)).json()["job_id"]
    await house.alice.get(f"/v1/jobs/{job_id}")
    await house.alice.get("/v1/made-up-path")
    await house.anonymous.request("BREW", "/made-up")
    text = (await house.anonymous.get("/metrics")).text
    assert 'route="/v1/jobs/{job_id}"' in text
    assert 'method="other"' in text
    for never in (job_id, "made-up", "BREW"):
        assert never not in text


def test_metrics_of_two_processes_are_summed_and_a_dead_ones_gauge_is_forgotten(tmp_path: Path) -> None:
    environment = {**os.environ, METRICS_DIR_ENV: str(tmp_path)}
    count = "from serving.telemetry import *; JOBS_TAKEN_OVER.inc({n}); JOBS_DRIVEN.set({n})"
    show = "JOBS_DRIVEN.set(7); JOBS_TAKEN_OVER.inc(0); import sys; sys.stdout.buffer.write(render_metrics())"

    def run(script: str) -> str:
        command = [sys.executable, "-c", script]
        done = subprocess.run(
            command, env=environment, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    run(count.format(n=2))
    run(count.format(n=3))
    shown = run(f"from serving.telemetry import *; {show}").splitlines()
    assert "darkroom_jobs_taken_over_total 5.0" in shown
    assert "darkroom_jobs_driven 7.0" in shown
