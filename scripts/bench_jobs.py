"""Measures the queue of jobs: submits and polls over HTTP, claims by many Routers, and whether a long queue is slower.

Three parts, in any choice:
  http    POST /v1/generate/image and GET /v1/jobs/{id} by many clients at once, against a running Darkroom
  claims  as many jobs as processes can claim from one MongoDB, each job by one of them (checked)
  depth   what a Router and a submission ask of MongoDB, with ever more jobs waiting, and the plans of these queries
The last two need no Darkroom: they use DARKROOM_MONGO_URL, or else an embedded server of their own.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import httpx
from bench_serving import BenchFailed, Row, summarise
from jobs_http import JobsOverHttp
from jobs_plans import Action, embedded_plans, is_bounded, mongodb_plans
from jobs_queue import Database, Queue, a_job, check_race, database_for_bench, race, wait_for
from rich.console import Console
from rich.table import Table

from configs.settings import SettingsError
from serving.cli.client import ClientError, find_connection
from serving.errors import AppError
from serving.jobs.job import Line

PARTS = ("http", "claims", "depth")
FLAT = ("claim_next", "insert", "heads", "get", "due")  # must not grow with the queue
MAX_GROWTH = 2.0  # of the median, from the shortest queue to the longest; a busy machine alone makes a half
TENANT = "tenant-0001"
ACTIONS: Mapping[str, Action] = {
    "claim_next": lambda store, _: store.claim_next(Line.of(a_job(TENANT)), owner="bench"),
    "insert": lambda store, _: store.insert(a_job(TENANT)),
    "heads": lambda store, _: store.heads([a_job(TENANT).model_id], limit=10),
    "count_queued of a tenant": lambda store, _: store.count_queued(TENANT),
    "due": lambda _, upkeep: upkeep.due(limit=100),
    "to_tidy": lambda _, upkeep: upkeep.to_tidy(limit=100),
    "find_owed": lambda _, upkeep: upkeep.find_owed(limit=100),
    "page": lambda store, _: store.page(TENANT, status=None, kind=None, limit=20, after=None),
}


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    rows: list[Row] = []
    plans: dict[str, list[str]] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="darkroom-bench-") as folder:
            if "http" in args.parts:
                rows += asyncio.run(measure_http(args))
            if "claims" in args.parts:
                rows.append(measure_claims(args, Path(folder) / "claims"))
            if "depth" in args.parts:
                depth_rows, plans = measure_depth(args, Path(folder))
                rows += depth_rows
    except (ClientError, SettingsError) as error:
        print(error, file=sys.stderr)
        return 2
    except (BenchFailed, AppError, httpx.HTTPError) as error:
        print(f"not measured: {error!r}", file=sys.stderr)
        return 2
    aims = verdicts(rows, plans)
    show(rows, plans, aims)
    write_json(args.out, rows, plans, aims, args)
    print(f"written: {args.out}")
    return 1 if args.check and not all(aims.values()) else 0


async def measure_http(args: argparse.Namespace) -> list[Row]:
    connection = find_connection(args.url, args.key or os.environ.get("DARKROOM_API_KEY"))
    limits = httpx.Limits(max_connections=args.clients, max_keepalive_connections=args.clients)
    headers = {"Authorization": f"Bearer {connection.key}"} if connection.key else {}
    async with httpx.AsyncClient(
        base_url=connection.url, headers=headers, limits=limits, timeout=args.timeout, trust_env=False
    ) as http:
        return await JobsOverHttp(http, model=args.model).measure(
            args.clients, num_submits=args.submits, num_polls=args.polls
        )


def measure_claims(args: argparse.Namespace, folder: Path) -> Row:
    """Claims that got a job, as each process saw them; the rate is over the whole race, looks at the lines included."""
    with database_for_bench(args.mongo_url, folder) as database:
        database = replace(database, name=f"{database.name}_claims")
        asyncio.run(fill(database, args.claims, num_tenants=args.tenants))
        claimed, took_s = race(database, num_processes=args.routers)
    check_race(claimed, args.claims)
    return summarise("claims", args.routers, [took_ms for _, took_ms in claimed], took_s)


def measure_depth(args: argparse.Namespace, folder: Path) -> tuple[list[Row], dict[str, list[str]]]:
    with database_for_bench(args.mongo_url, folder / "depth") as database:
        rows = asyncio.run(measure_depths(database, args))
        if database.data_dir is None:
            print(f"left behind on the server: database {database.name}", file=sys.stderr)
            return rows, asyncio.run(mongodb_plans(database.url, database.name, ACTIONS))
        copy = folder / "copy"
        return rows, asyncio.run(embedded_plans(database.data_dir, database.name, copy, ACTIONS))


async def measure_depths(database: Database, args: argparse.Namespace) -> list[Row]:
    mongo = database.open()
    rows: list[Row] = []
    try:
        await wait_for(mongo)
        await mongo.make_indexes()
        queue = Queue(mongo, num_tenants=args.tenants)
        for depth in sorted(args.depths):
            print(f"filling the queue up to {depth} jobs …", file=sys.stderr)
            await queue.fill(depth)
            rows += await queue.measure(depth, args.times)
    finally:
        await mongo.close()
    return rows


async def fill(database: Database, num_jobs: int, *, num_tenants: int) -> None:
    mongo = database.open()
    try:
        await wait_for(mongo)
        await mongo.make_indexes()
        await Queue(mongo, num_tenants=num_tenants).fill(num_jobs)
    finally:
        await mongo.close()


def verdicts(rows: Sequence[Row], plans: Mapping[str, Sequence[str]]) -> dict[str, bool]:
    """Whether each operation is as quick in a long queue as in a short one, and goes by an index."""
    medians: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        name, _, depth = row.what.removesuffix(" queued").partition(", ")
        if name in FLAT and depth:
            medians.setdefault(name, []).append((int(depth), row.p50_ms))
    aims: dict[str, bool] = {}
    for name, measured in medians.items():
        (shortest, short_ms), (longest, long_ms) = min(measured), max(measured)
        aims[f"{name}: {longest} queued at most {MAX_GROWTH:g} × {shortest}"] = long_ms <= MAX_GROWTH * short_ms
    return aims | {f"{name}: by an index": is_bounded(plan) for name, plan in plans.items() if name != "insert"}


def show(rows: Sequence[Row], plans: Mapping[str, Sequence[str]], aims: Mapping[str, bool]) -> None:
    console = Console()
    table = Table("what", "at once", "times", "per s", "p50 ms", "p95 ms", "p99 ms", "max ms", box=None)
    for row in rows:
        table.add_row(*(str(value) for value in asdict(row).values()))
    console.print(table)
    for name, plan in plans.items():
        console.print(f"{name}: {'; '.join(plan) or 'nothing to plan'}", highlight=False, markup=False)
    for aim, is_met in aims.items():
        console.print(f"{'met   ' if is_met else 'MISSED'}  {aim}")


def write_json(
    path: Path,
    rows: Sequence[Row],
    plans: Mapping[str, Sequence[str]],
    aims: Mapping[str, bool],
    args: argparse.Namespace,
) -> None:
    report = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "darkroom": version("darkroom"),
        "python": platform.python_version(),
        "num_cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "mongodb": "embedded" if args.mongo_url is None else "given",
        "tenants": args.tenants,
        "rows": [asdict(row) for row in rows],
        "plans": plans,
        "aims": aims,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all of them")
    parser.add_argument("--url", default=os.environ.get("DARKROOM_URL"), help="the API; unset: this machine's")
    parser.add_argument("--key", help="API key; unset: DARKROOM_API_KEY, else the admin key of this machine's server")
    parser.add_argument("--model", default="emoji-3d", help="whose jobs are submitted")
    parser.add_argument("--clients", type=_positive, default=100, help="at once (100)")
    parser.add_argument("--submits", type=_positive, default=1_000, help="jobs (1000); they are cancelled afterwards")
    parser.add_argument("--polls", type=_positive, default=5_000, help="of these jobs (5000)")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds until a request counts as lost (120)")
    parser.add_argument("--mongo-url", default=os.environ.get("DARKROOM_MONGO_URL"), help="unset: an embedded server")
    parser.add_argument("--routers", type=_positive, default=8, help="processes that claim (8)")
    parser.add_argument("--claims", type=_positive, default=4_000, help="jobs to be claimed by them (4000)")
    parser.add_argument("--tenants", type=_positive, default=50, help="whose jobs wait (50)")
    parser.add_argument("--depths", type=_positive, nargs="+", default=[1_000, 10_000, 100_000], help="jobs that wait")
    parser.add_argument("--times", type=_positive, default=300, help="of each operation, at each depth (300)")
    parser.add_argument("--out", type=Path, default=Path(".darkroom/bench/jobs.json"), help="report as JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 when an aim is missed")
    args = parser.parse_args(argv)
    if min(args.depths) <= args.times or min(args.depths) < args.tenants:
        parser.error("every depth must be above --times, and no less than --tenants")
    return args


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
