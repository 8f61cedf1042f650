"""What the user sees: results on stdout (a table for people, tab-separated lines for programs), the rest on stderr."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

LINE_EVERY_S = 10.0


def say(message: str) -> None:
    """A line on stderr, so that stdout holds results alone."""
    typer.echo(_plain(message), err=True)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Rows on stdout; `empty` is said on stderr when there are none."""
    console = Console()
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        say(empty)
    elif console.is_terminal:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in cells:
            # Text, not str: what a server or a user wrote must not be read as markup.
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    else:
        for row in cells:
            typer.echo("\t".join(row))


def show_fields(fields: Mapping[str, object]) -> None:
    """One `name<TAB>value` line each; what is empty is left out."""
    for name, value in fields.items():
        if value not in (None, "", {}, []):
            typer.echo(f"{name}\t{_cell(value)}")


@contextmanager
def job_progress(
    words: Callable[[Mapping[str, Any]], str] | None = None,
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A bar on stderr that follows a job; nothing at all where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("sending", total=100)

        def watch(job: Mapping[str, Any]) -> None:
            progress.update(task, completed=float(job.get("progress") or 0), description=(words or describe)(job))

        yield watch


@contextmanager
def training_progress() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """The same for what takes minutes; where stderr is no terminal, a line for each stage and one now and then."""
    if Console(stderr=True).is_terminal:
        with job_progress(describe_training) as watch:
            yield watch
        return
    last_standing, quiet_until = ("", ""), 0.0

    def tell(job: Mapping[str, Any]) -> None:
        nonlocal last_standing, quiet_until
        standing = (str(job["status"]), str(job.get("stage") or ""))
        if standing != last_standing or time.monotonic() >= quiet_until:
            last_standing, quiet_until = standing, time.monotonic() + LINE_EVERY_S
            say(f"{float(job.get('progress') or 0):3.0f} %  {describe_training(job)}")

    yield tell


def describe_training(job: Mapping[str, Any]) -> str:
    """Stage, step, loss and time to go, as far as they are known."""
    stage = job.get("stage")
    if stage is None or job["status"] != "running":
        return describe(job)
    parts = [f"{stage} {job['step']}/{job['steps']}" if stage == "train" else str(stage)]
    if job.get("loss") is not None:
        parts.append(f"loss {job['loss']:.4f}")
    if job.get("eta_s") is not None:
        parts.append(f"{time_in_words(job['eta_s'])} left")
    return ", ".join(parts)


def describe(job: Mapping[str, Any]) -> str:
    """The state of a job in a few words."""
    position = job.get("queue_position")
    if job["status"] == "queued" and isinstance(position, int) and position > 0:
        return f"queued, {position} before it"
    return str(job["status"])


def when(unix_s: object) -> str:
    if not isinstance(unix_s, int | float):
        return ""
    return datetime.fromtimestamp(unix_s, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def time_in_words(seconds: float) -> str:
    """Such as 40 s, 8 min or 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"


def bytes_in_words(num_bytes: int) -> str:
    """Such as 300 MB or 1.9 GB."""
    return f"{num_bytes / 1e6:.0f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:.1f} GB"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _plain(str(value)).replace("\t", " ").replace("\n", " ")


def _plain(text: str) -> str:
    # Control characters from outside could drive the user's terminal.
    return "".join(c for c in text if c in "\n\t" or c.isprintable())
