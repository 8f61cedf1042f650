"""The report of a chaos run: a table on the screen, the same as Markdown, and everything as JSON."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from chaos_rounds import RoundReport
from rich.console import Console
from rich.table import Table

COLUMNS = (
    "round",
    "fault",
    "accepted",
    "succeeded",
    "failed",
    "cancelled",
    "lost",
    "doubled",
    "wrong",
    "s to service",
    "s of engine's start",
)
SHOWN_FINDINGS = 10
FILE_WIDTH = 140  # where there is no terminal to fit into


def row_of(report: RoundReport) -> tuple[str, ...]:
    """One round as the table shows it."""
    return (
        str(report.number),
        " + ".join(report.faults),
        str(report.num_accepted),
        *(str(report.ends.get(status, 0)) for status in ("succeeded", "failed", "cancelled")),
        *(str(report.count(verdict)) for verdict in ("lost", "doubled", "wrong")),
        *("–" if value is None else f"{value:.1f}" for value in (report.service_s, report.start_s)),
    )


def total_of(reports: Sequence[RoundReport]) -> tuple[str, ...]:
    """The last line: sums, and the longest time to service."""
    longest_s = max((report.service_s for report in reports if report.service_s is not None), default=0.0)
    return (
        "all",
        f"{len(reports)} rounds",
        str(sum(report.num_accepted for report in reports)),
        *(
            str(sum(report.ends.get(status, 0) for report in reports))
            for status in ("succeeded", "failed", "cancelled")
        ),
        *(str(sum(report.count(verdict) for report in reports)) for verdict in ("lost", "doubled", "wrong")),
        f"≤ {longest_s:.1f}",
        "",
    )


def show(reports: Sequence[RoundReport], last: RoundReport | None) -> None:
    """`last` judged all rounds again at the end; it adds no jobs of its own."""
    table = Table(*COLUMNS, box=None)
    for report in reports:
        table.add_row(*row_of(report))
    table.add_row(*total_of(reports), style="bold")
    console = Console()
    console = console if console.is_terminal else Console(width=FILE_WIDTH)
    console.print(table)
    for report in (*reports, *(() if last is None else (last,))):
        for finding in report.findings[:SHOWN_FINDINGS]:
            where = f"round {report.number} ({' + '.join(report.faults)})"
            console.print(f"{finding.verdict}: {where}: {finding.about}: {finding.what}", markup=False, soft_wrap=True)
        if (more := len(report.findings) - SHOWN_FINDINGS) > 0:
            console.print(f"… and {more} more of round {report.number}")


def markdown(reports: Sequence[RoundReport]) -> str:
    """The table for docs/measurements."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(row_of(report) for report in reports), total_of(reports)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_json(
    path: Path, reports: Sequence[RoundReport], last: RoundReport | None, *, arguments: Mapping[str, object]
) -> None:
    tree = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "darkroom": version("darkroom"),
        "python": platform.python_version(),
        "num_cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "arguments": dict(arguments),
        **{
            name: sum(getattr(report, name) for report in reports)
            for name in ("num_accepted", "num_pictures", "num_webhooks", "num_trainings")
        },
        **{
            v: sum(report.count(v) for report in (*reports, *filter(None, [last])))
            for v in ("lost", "doubled", "wrong")
        },
        "rounds": [asdict(report) for report in reports],
        "all_rounds_again": None if last is None else asdict(last),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, indent=2) + "\n", "utf-8")
