"""Measures what trainings take from people who wait for pictures on the same machine.

Needs a running Darkroom and a video. One client orders picture after picture with a pause between: first alone, then
while trainings are in their steps, then alone again. Nothing may fail; the aim is that the 95th percentile stays within
three times the idle one.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
from bench_serving import BenchFailed, Row, summarise
from rich.console import Console
from rich.table import Table

from configs.settings import SettingsError
from serving.cli.client import Client, ClientError, Connection, find_connection
from serving.cli.uploads import upload

AIM_RATIO = 3.0
IDLE, BUSY, AFTER = "idle", "beside trainings", "idle again"
FINAL = {"succeeded", "failed", "cancelled"}
STAGE_TIMEOUT_S = 300.0
TRAINING_TIMEOUT_S = 1_800.0
POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Report:
    """All that was measured."""

    rows: tuple[Row, ...]
    trainings: tuple[str, ...]  # what each came to: an adapter
    num_trained_at_end: int  # trainings that were still in their steps when the last busy picture came

    @property
    def ratio(self) -> float:
        idle, busy = self.rows[0], self.rows[1]
        return busy.p95_ms / idle.p95_ms


class Bench:
    """Pictures and trainings over one connection pool."""

    def __init__(self, http: httpx.AsyncClient, args: argparse.Namespace) -> None:
        self._http, self._args = http, args

    async def measure(self, upload_id: str) -> Report:
        await self._pictures("warm-up", 3)
        idle = await self._pictures(IDLE, self._args.pictures)
        jobs = [await self._train(upload_id, seed) for seed in range(self._args.trainings)]
        await asyncio.gather(*(self._in_steps(job) for job in jobs))
        busy = await self._pictures(BUSY, self._args.pictures)
        states = [await self._job(job) for job in jobs]
        ended = await asyncio.gather(*(self._ended(job) for job in jobs))
        after = await self._pictures(AFTER, self._args.pictures)
        still = sum(state["status"] == "running" and state["stage"] == "train" for state in states)
        return Report((idle, busy, after), tuple(ended), still)

    async def _pictures(self, what: str, count: int) -> Row:
        began_s, took_ms = time.perf_counter(), []
        for seed in range(count):
            body = {"model": self._args.model, "prompt": "a red apple", "seed": seed, "response_format": "b64_json"}
            asked_s = time.perf_counter()
            await self._call("POST", "/v1/images/generations", body)
            took_ms.append(1000 * (time.perf_counter() - asked_s))
            await asyncio.sleep(self._args.pause)
        return summarise(what, 1, took_ms, time.perf_counter() - began_s)

    async def _train(self, upload_id: str, seed: int) -> str:
        body = {"name": f"bench-{seed}", "upload_ids": [upload_id], "trigger": "sks person", "seed": seed}
        body |= {"base_model": self._args.model, "steps": self._args.steps}
        return str((await self._call("POST", "/v1/loras/train", body))["id"])

    async def _in_steps(self, job_id: str) -> None:
        deadline_s = time.monotonic() + STAGE_TIMEOUT_S
        while time.monotonic() < deadline_s:
            job = await self._job(job_id)
            if job["status"] in FINAL:
                raise BenchFailed(f"{job_id} ended before it could be measured: {job['status']} {job['error']}")
            if job["stage"] == "train":
                return
            await asyncio.sleep(POLL_S)
        raise BenchFailed(f"{job_id} was not in its steps after {STAGE_TIMEOUT_S:.0f} s")

    async def _ended(self, job_id: str) -> str:
        deadline_s = time.monotonic() + TRAINING_TIMEOUT_S
        while time.monotonic() < deadline_s:
            job = await self._job(job_id)
            if job["status"] == "succeeded":
                return str(job["result"]["adapter"])
            if job["status"] in FINAL:
                raise BenchFailed(f"{job_id} is {job['status']}: {job['error']}")
            await asyncio.sleep(POLL_S)
        raise BenchFailed(f"{job_id} has not ended after {TRAINING_TIMEOUT_S:.0f} s")

    async def _job(self, job_id: str) -> dict[str, Any]:
        return await self._call("GET", f"/v1/jobs/{job_id}")

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        reply = await self._http.request(method, path, json=body)
        if not reply.is_success:
            raise BenchFailed(f"{method} {path} → {reply.status_code}: {reply.text[:300]}")
        parsed: dict[str, Any] = reply.json()
        return parsed


async def run(connection: Connection, args: argparse.Namespace) -> Report:
    with Client(connection) as client:
        upload_id = upload(client, args.video, "video", watch=lambda *_: None)
    headers = {"Authorization": f"Bearer {connection.key}"} if connection.key else {}
    async with httpx.AsyncClient(
        base_url=connection.url, headers=headers, timeout=args.timeout, trust_env=False
    ) as http:
        return await Bench(http, args).measure(upload_id)


def show(report: Report) -> None:
    table = Table("pictures", "made", "p50 ms", "p95 ms", "max ms", box=None)
    for row in report.rows:
        table.add_row(row.what, str(row.num_requests), *(f"{ms:.0f}" for ms in (row.p50_ms, row.p95_ms, row.max_ms)))
    Console().print(table)
    print(f"p95 beside {len(report.trainings)} trainings: {report.ratio:.2f} × idle (aim: ≤ {AIM_RATIO:g})")
    print(f"trainings: {', '.join(report.trainings)}; {report.num_trained_at_end} in their steps to the last picture")


def write_json(path: Path, report: Report, args: argparse.Namespace) -> None:
    tree = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "darkroom": version("darkroom"),
        "python": platform.python_version(),
        "num_cores": os.cpu_count(),
        "arguments": {key: str(value) for key, value in vars(args).items() if key != "key"},
        "ratio": report.ratio,
        "aim": AIM_RATIO,
        **asdict(report),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, indent=2) + "\n", "utf-8")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("video", type=Path, help="to train on")
    parser.add_argument("--url", default=os.environ.get("DARKROOM_URL"), help="the API; unset: this machine's")
    parser.add_argument("--key", help="API key; unset: DARKROOM_API_KEY, else the admin key of this machine's server")
    parser.add_argument("--model", default="emoji-3d")
    parser.add_argument("--trainings", type=int, default=2, help="at once")
    parser.add_argument("--steps", type=int, default=600, help="of each training")
    parser.add_argument("--pictures", type=int, default=40, help="per measurement")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two pictures")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds until a request counts as lost")
    parser.add_argument("--out", type=Path, default=Path(".darkroom/bench/sharing.json"), help="report as JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 when the aim is missed")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        connection = find_connection(args.url, args.key or os.environ.get("DARKROOM_API_KEY"))
        report = asyncio.run(run(connection, args))
    except (ClientError, SettingsError) as error:
        print(error, file=sys.stderr)
        return 2
    except (BenchFailed, httpx.HTTPError) as error:
        print(f"not measured: {error!r}", file=sys.stderr)
        return 2
    show(report)
    write_json(args.out, report, args)
    print(f"written: {args.out}")
    return 1 if args.check and report.ratio > AIM_RATIO else 0


if __name__ == "__main__":
    sys.exit(main())
