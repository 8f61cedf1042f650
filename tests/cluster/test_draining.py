"""Stops and restarts that nobody notices: what runs is finished or handed back, and every caller gets its picture."""

import base64
import io
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from configs.settings import CONFIG_DIR, PROJECT_DIR, read_yaml
from tests.cluster.conftest import Darkroom, running_darkroom

GENERATIONS, NATIVE = "/v1/images/generations", "/v1/generate/image"
QUICK = {"prompt": "a red apple", "size": "64x64", "num_inference_steps": 8, "response_format": "b64_json"}
SHORT = {"prompt": "a house", "size": "64x64", "num_inference_steps": 6}
# Longer than a drain, whatever the machine; each of its steps takes a good part of a second.
ENDLESS = {"prompt": "a house", "size": "256x256", "num_inference_steps": 100, "n": 10}
DRAIN_S = 15.0
Pixels = NDArray[np.int16]
SEEDS = (1, 2, 3)
NUM_CALLERS = 4
DEADLINE_S = 120.0
ROLL_TIMEOUT_S = 400.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def settings_path(tmp_path: Path) -> Path:
    path = tmp_path / "settings.yaml"
    settings = read_yaml(CONFIG_DIR / "test.yaml")
    settings["jobs"]["drain_s"] = DRAIN_S
    path.write_text(yaml.safe_dump(settings), "utf-8")
    return path


def test_a_stop_finishes_what_it_can_and_hands_back_the_rest(tmp_path: Path, settings_path: Path) -> None:
    options = ("--config", str(settings_path))
    with running_darkroom(tmp_path, *options) as server, server.client() as client, ThreadPoolExecutor(1) as pool:
        endless = client.post(NATIVE, json=ENDLESS).json()["id"]
        until_running(client, 1)
        waiting = pool.submit(client.post, GENERATIONS, json=SHORT)
        until_running(client, 2)
        server.process.send_signal(signal.SIGTERM)
        refusal = refused(client)
        assert refusal.json()["error"]["code"] == "draining"
        assert int(refusal.headers["Retry-After"]) >= 1
        assert client.get(f"/v1/jobs/{endless}").json()["status"] == "running"
        assert waiting.result(timeout=DEADLINE_S).status_code == 200
        assert server.process.wait(DEADLINE_S) == 0

    with running_darkroom(tmp_path, *options) as server, server.client() as client:
        until(lambda: client.get(f"/v1/jobs/{endless}").json()["status"] == "running")
        job = client.get(f"/v1/jobs/{endless}").json()
        assert (job["attempts"], job["history"]) == (2, [])
        assert client.post(f"/v1/jobs/{endless}/cancel").json()["status"] == "cancelled"


def test_a_rolling_restart_under_load_fails_nothing(tmp_path: Path) -> None:
    with running_darkroom(tmp_path) as server, server.client() as client:
        pixels = {seed: picture_of(client, seed) for seed in SEEDS}
        before = replicas(server)
        is_over = threading.Event()
        with ThreadPoolExecutor(NUM_CALLERS) as pool:
            callers = [pool.submit(lambda: list(calls(server, is_over))) for _ in range(NUM_CALLERS)]
            try:
                roll = rolling_restart(server)
            finally:
                is_over.set()
        assert roll.returncode == 0, roll.stderr
        assert "Every replica was replaced" in roll.stdout
        made = [call for caller in callers for call in caller.result()]
        assert len(made) > NUM_CALLERS
        # Pictures that shared a batch may be one off in the last of eight bits.
        assert max(int(np.abs(image - pixels[seed]).max()) for seed, image in made) <= 1
        assert not set(before.values()) & set(replicas(server).values())


def calls(server: Darkroom, is_over: threading.Event) -> Iterator[tuple[int, Pixels]]:
    """One caller's pictures, asked for one after the other; any refusal is raised."""
    with server.client() as client:
        while not is_over.is_set():
            for seed in SEEDS:
                yield seed, picture_of(client, seed)


def picture_of(client: httpx.Client, seed: int) -> Pixels:
    """The pixels of a picture."""
    answer = client.post(GENERATIONS, json={**QUICK, "seed": seed})
    assert answer.status_code == 200, answer.text
    data = base64.b64decode(answer.json()["data"][0]["b64_json"])
    return np.asarray(Image.open(io.BytesIO(data)), dtype=np.int16)


def rolling_restart(server: Darkroom) -> "subprocess.CompletedProcess[str]":
    script = PROJECT_DIR / "scripts" / "rolling_restart.py"
    command = [sys.executable, str(script), "--state-dir", str(server.state_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=ROLL_TIMEOUT_S)


def replicas(server: Darkroom) -> dict[str, int]:
    return {name: server.replica(name).pid for name in ("Api", "Router", "Engine:emoji-3d")}


def until_running(client: httpx.Client, number: int) -> None:
    until(lambda: len(client.get("/v1/jobs", params={"status": "running"}).json()["data"]) >= number)


def refused(client: httpx.Client) -> httpx.Response:
    """The first refusal of a picture."""
    answers: list[httpx.Response] = []

    def is_refused() -> bool:
        answers.append(
            client.post(NATIVE, json={name: QUICK[name] for name in ("prompt", "size", "num_inference_steps")})
        )
        return answers[-1].status_code == 503

    until(is_refused)
    return answers[-1]


def until(is_so: Any) -> None:
    end = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.1)
