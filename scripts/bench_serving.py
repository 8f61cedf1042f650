"""Measures what Darkroom adds to a request beside the engine's own time, and how fast a job can be polled.

Needs a running Darkroom and talks to it as any client does. The engine is kept short (small picture, one step) so that
the rest shows. Added time = what the client saw − the engine's time − the wait for the engine, the latter two as the
server reports them for each reply. Client and server share this machine's cores when they share the machine.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import httpx
from rich.console import Console
from rich.table import Table

from configs.settings import SettingsError
from serving.cli.client import ClientError, Connection, find_connection

AIM_ADDED_P50_MS = 15.0
AIM_POLL_P99_MS = 20.0
ADDED, POLL = "image: added", "poll of a job"

T = TypeVar("T")


class BenchFailed(Exception):
    """A figure could not be taken; a bench that skips over failures would report the survivors."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One image request, in milliseconds."""

    total_ms: float
    engine_ms: float
    queue_ms: float

    @property
    def added_ms(self) -> float:
        return self.total_ms - self.engine_ms - self.queue_ms


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report."""

    what: str
    concurrency: int
    num_requests: int
    requests_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank: a value that was really measured, never one between two."""
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


def summarise(what: str, concurrency: int, values_ms: Sequence[float], wall_s: float) -> Row:
    p50, p95, p99 = (round(percentile(values_ms, p), 3) for p in (50, 95, 99))
    rate = round(len(values_ms) / wall_s, 1)
    return Row(what, concurrency, len(values_ms), rate, p50, p95, p99, round(max(values_ms), 3))


def parse_server_timing(header: str) -> dict[str, float]:
    """`engine;dur=12.5, queue;dur=3` → {"engine": 12.5, "queue": 3.0}; metrics without a duration are left out."""
    found: dict[str, float] = {}
    for metric in header.split(","):
        name, _, parameters = metric.strip().partition(";")
        if match := re.search(r"(?:^|;)\s*dur=\"?([0-9.eE+-]+)", parameters):
            found[name.strip()] = float(match.group(1))
    return found


class Bench:
    """The two measurements over one keep-alive connection pool."""

    def __init__(self, http: httpx.AsyncClient, args: argparse.Namespace) -> None:
        self.http, self.args = http, args

    async def generate(self, seed: int) -> tuple[Timing, str]:
        """One image through the synchronous route, and the id of its job."""
        body = {
            "model": self.args.model,
            "prompt": "a red apple",
            "size": self.args.size,
            "num_inference_steps": self.args.steps,
            "seed": seed,
            "response_format": "url",
        }
        began = time.perf_counter()
        reply = await self.http.post("/v1/images/generations", json=body)
        total_ms = 1000 * (time.perf_counter() - began)
        if reply.status_code != httpx.codes.OK:
            raise BenchFailed(f"POST /v1/images/generations → {reply.status_code}: {reply.text[:300]}")
        timing = parse_server_timing(reply.headers.get("Server-Timing", ""))
        if not {"engine", "queue"} <= timing.keys():
            raise BenchFailed("the reply has no Server-Timing with engine and queue, so waiting cannot be subtracted")
        parsed = reply.json()
        if abs(1000 * parsed["inference_time_s"] - timing["engine"]) > 1 + timing["engine"] / 100:
            raise BenchFailed(f"inference_time_s {parsed['inference_time_s']} and Server-Timing {timing} disagree")
        return Timing(total_ms, timing["engine"], timing["queue"]), str(parsed["job_id"])

    async def poll(self, job_id: str) -> float:
        began = time.perf_counter()
        reply = await self.http.get(f"/v1/jobs/{job_id}")
        took_ms = 1000 * (time.perf_counter() - began)
        if reply.status_code != httpx.codes.OK:
            raise BenchFailed(f"GET /v1/jobs/{job_id} → {reply.status_code}: {reply.text[:300]}")
        return took_ms

    async def measure(self) -> list[Row]:
        rows: list[Row] = []
        seeds = iter(range(1, 10**9))
        job_id = ""
        for concurrency in self.args.concurrency:

            async def one_image() -> Timing:
                nonlocal job_id
                timing, job_id = await self.generate(next(seeds))
                return timing

            await at_concurrency(one_image, concurrency, max(self.args.warmup, concurrency))
            timings, wall_s = await at_concurrency(one_image, concurrency, self.args.requests)
            rows += [
                summarise(ADDED, concurrency, [t.added_ms for t in timings], wall_s),
                summarise("image: engine", concurrency, [t.engine_ms for t in timings], wall_s),
                summarise("image: queue", concurrency, [t.queue_ms for t in timings], wall_s),
                summarise("image: total", concurrency, [t.total_ms for t in timings], wall_s),
            ]
        for concurrency in self.args.concurrency:

            async def one_poll() -> float:
                return await self.poll(job_id)

            await at_concurrency(one_poll, concurrency, max(self.args.warmup, concurrency))
            polls_ms, wall_s = await at_concurrency(one_poll, concurrency, self.args.polls)
            rows.append(summarise(POLL, concurrency, polls_ms, wall_s))
        return rows


async def at_concurrency(call: Callable[[], Awaitable[T]], concurrency: int, times: int) -> tuple[list[T], float]:
    """`times` calls, `concurrency` at once, each worker starting its next when its last ended; results and seconds."""
    results: list[T] = []
    left = iter(range(times))

    async def worker() -> None:
        for _ in left:
            results.append(await call())

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))  # the first failure ends the bench
    return results, time.perf_counter() - began


def verdicts(rows: Sequence[Row]) -> dict[str, bool]:
    """Each aim at each concurrency, and whether it was met."""
    aims: dict[str, bool] = {}
    for row in rows:
        if row.what == ADDED:
            aims[f"added p50 ≤ {AIM_ADDED_P50_MS:.0f} ms, {row.concurrency} at once"] = row.p50_ms <= AIM_ADDED_P50_MS
        elif row.what == POLL:
            aims[f"poll p99 ≤ {AIM_POLL_P99_MS:.0f} ms, {row.concurrency} at once"] = row.p99_ms <= AIM_POLL_P99_MS
    return aims


def show(rows: Sequence[Row], aims: dict[str, bool]) -> None:
    table = Table("what", "at once", "requests", "per s", "p50 ms", "p95 ms", "p99 ms", "max ms", box=None)
    for row in rows:
        table.add_row(*(str(value) for value in asdict(row).values()))
    console = Console()
    console.print(table)
    for aim, is_met in aims.items():
        console.print(f"{'met   ' if is_met else 'MISSED'}  {aim}")


def write_json(path: Path, rows: Sequence[Row], aims: dict[str, bool], args: argparse.Namespace) -> None:
    report = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "darkroom": version("darkroom"),
        "python": platform.python_version(),
        "num_cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "model": args.model,
        "size": args.size,
        "steps": args.steps,
        "rows": [asdict(row) for row in rows],
        "aims": aims,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


async def run(connection: Connection, args: argparse.Namespace) -> list[Row]:
    limits = httpx.Limits(max_connections=max(args.concurrency), max_keepalive_connections=max(args.concurrency))
    headers = {"Authorization": f"Bearer {connection.key}"} if connection.key else {}
    async with httpx.AsyncClient(
        base_url=connection.url, headers=headers, limits=limits, timeout=args.timeout, trust_env=False
    ) as http:
        return await Bench(http, args).measure()


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--url", default=os.environ.get("DARKROOM_URL"), help="the API; unset: this machine's")
    parser.add_argument("--key", help="API key; unset: DARKROOM_API_KEY, else the admin key of this machine's server")
    parser.add_argument("--model", default="emoji-3d", help="a small model, so that the engine is short")
    parser.add_argument("--size", default="64x64", help="of the picture")
    parser.add_argument("--steps", type=_positive, default=1, help="denoising steps")
    parser.add_argument("--concurrency", type=_positive, nargs="+", default=[1, 16], help="requests at once")
    parser.add_argument("--requests", type=_positive, default=100, help="images per concurrency")
    parser.add_argument("--polls", type=_positive, default=500, help="polls per concurrency")
    parser.add_argument("--warmup", type=_positive, default=10, help="requests before measuring")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds until a request counts as lost")
    parser.add_argument("--out", type=Path, default=Path(".darkroom/bench/serving.json"), help="report as JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 when an aim is missed")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        connection = find_connection(args.url, args.key or os.environ.get("DARKROOM_API_KEY"))
        rows = asyncio.run(run(connection, args))
    except (ClientError, SettingsError) as error:
        print(error, file=sys.stderr)
        return 2
    except (BenchFailed, httpx.HTTPError) as error:
        print(f"not measured: {error!r}", file=sys.stderr)
        return 2
    aims = verdicts(rows)
    show(rows, aims)
    write_json(args.out, rows, aims, args)
    print(f"written: {args.out}")
    return 1 if args.check and not all(aims.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
