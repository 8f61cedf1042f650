"""What the user sees: results on stdout (a table for people, tab-separated lines for programs), the rest on stderr."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text


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
def job_progress() -> Iterator[Callable[[Mapping[str, Any]], None]]:
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
            progress.update(task, completed=float(job.get("progress") or 0), description=describe(job))

        yield watch


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


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _plain(str(value)).replace("\t", " ").replace("\n", " ")


def _plain(text: str) -> str:
    # Control characters from outside could drive the user's terminal.
    return "".join(c for c in text if c in "\n\t" or c.isprintable())
