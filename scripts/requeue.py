"""Has failed jobs tried again: all that a key may see, or those that failed in a certain way, of a model, of an age.

Speaks the public API as any client does. What was retried is no longer failed, so running it again is safe. A full
queue is waited for; a job whose input files are gone, or that somebody else retried meanwhile, is told and passed over.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.settings import SettingsError
from serving.cli.client import Client, ClientError, Refused, find_connection, segment
from serving.cli.job_commands import failure_of, shorten
from serving.cli.render import when

PAGE = 100
UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
RETRIED, WOULD_BE = "waits again", "would wait again"
MAX_MESSAGE_CHARS = 60


@dataclass(frozen=True, slots=True)
class Filters:
    """Which failed jobs are meant; what is left open lets all through."""

    codes: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    older_than_s: float = 0.0  # since they failed
    newer_than_s: float = float("inf")

    def let_through(self, job: dict[str, Any], *, now: float) -> bool:
        age_s = now - float(job["finished_at"] or job["created_at"])
        return (
            (not self.codes or failure_of(job)[0] in self.codes)
            and (not self.models or job["model"] in self.models)
            and self.older_than_s <= age_s <= self.newer_than_s
        )


@dataclass(slots=True)
class Outcome:
    """What became of each job that was meant."""

    rows: list[tuple[str, ...]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def note(self, job: dict[str, Any], verdict: str) -> None:
        code, message = failure_of(job)
        failed_at = when(job["finished_at"])
        self.rows.append((job["id"], failed_at, job["model"], code, shorten(message, MAX_MESSAGE_CHARS), verdict))
        self.counts[verdict] += 1


def main(argv: Sequence[str] | None = None, *, transport: httpx.BaseTransport | None = None) -> int:
    """0 when every job that was meant waits again, or would; 1 when some were refused or the server does not answer."""
    args = _parser().parse_args(argv)
    filters = Filters(frozenset(args.code), frozenset(args.model), args.older_than, args.newer_than)
    outcome, trouble = Outcome(), ""
    try:
        with Client(find_connection(args.url, args.key), transport=transport) as client:
            # All of them first: what is retried leaves the list that is being paged through.
            meant = [job for job in failed_jobs(client) if filters.let_through(job, now=time.time())][: args.limit]
            requeue(client, meant, outcome, patience_s=args.patience, is_dry=args.dry_run)
    except (ClientError, SettingsError) as error:
        trouble = str(error)
    _show(outcome)
    if trouble:
        print(f"requeue: {trouble}", file=sys.stderr)
    return 1 if trouble or not set(outcome.counts) <= {RETRIED, WOULD_BE} else 0


def failed_jobs(client: Client) -> Iterator[dict[str, Any]]:
    """All failed jobs of the key's tenant, newest first."""
    after: str | None = None
    while True:
        page = client.get("/v1/jobs", status="failed", limit=PAGE, after=after)
        yield from page["data"]
        if not page["has_more"]:
            return
        after = page["last_id"]


def requeue(
    client: Client, jobs: Sequence[dict[str, Any]], outcome: Outcome, *, patience_s: float, is_dry: bool
) -> None:
    """Oldest first. Waits for room in the queue, for `patience_s` in all."""
    gives_up_at = time.monotonic() + patience_s
    for job in reversed(jobs):
        outcome.note(job, WOULD_BE if is_dry else _retry(client, job["id"], gives_up_at=gives_up_at))


def _retry(client: Client, job_id: str, *, gives_up_at: float) -> str:
    """What became of one job, in a few words."""
    while True:
        try:
            client.post(f"/v1/jobs/{segment(job_id)}/retry")
        except Refused as error:
            if error.status in {401, 403}:
                raise
            left_s = gives_up_at - time.monotonic()
            if error.status not in {429, 503} or left_s <= 0:
                return error.code or f"HTTP {error.status}"
            time.sleep(min(error.retry_after_s or 1, left_s))
        else:
            return RETRIED


def _show(outcome: Outcome) -> None:
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("id", "failed", "model", "code", "message", "now"):
        table.add_column(column, overflow="fold")
    for row in outcome.rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: a message must not be read as markup
    if outcome.rows:
        console.print(table)
    total = ", ".join(f"{count} {verdict}" for verdict, count in sorted(outcome.counts.items()))
    print(total or "Nothing was retried.", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default=os.environ.get("DARKROOM_URL"), help="address of the API; this machine's")
    parser.add_argument(
        "--key",
        default=os.environ.get("DARKROOM_API_KEY"),
        help="key of the tenant whose jobs are meant; the admin key in the state folder",
    )
    parser.add_argument("--code", action="append", default=[], help="only jobs that failed with this code; repeatable")
    parser.add_argument("--model", action="append", default=[], help="only jobs of this model; repeatable")
    parser.add_argument("--older-than", type=_seconds, default=0.0, metavar="AGE", help="failed that long ago: 90s, 2h")
    parser.add_argument(
        "--newer-than", type=_seconds, default=float("inf"), metavar="AGE", help="failed since: 30m, 1d"
    )
    parser.add_argument("--limit", type=int, default=None, help="at most so many, the newest")
    parser.add_argument("--patience", type=_seconds, default=600.0, metavar="TIME", help="to wait for room in all; 10m")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done")
    return parser


def _seconds(text: str) -> float:
    unit = UNITS_S.get(text[-1:])
    number = text[:-1] if unit else text
    if not (number.isascii() and number.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 90s, 30m, 2h or 1d")
    return float(number) * (unit or 1)


if __name__ == "__main__":
    sys.exit(main())
