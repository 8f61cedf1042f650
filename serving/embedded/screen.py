"""What `darkroom serve` shows: stages with their time, a spinner on a terminal, and the addresses once it is ready."""

import os
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from configs.settings import Settings

# In a log file a spinner is noise; a line now and then shows that the wait goes on.
REMINDER_PERIOD_S = 15.0


class Screen:
    """Prints to one console; holds the spinner and the clock of the start."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._started_s = time.monotonic()
        self._status: Status | None = None
        self._last_waiting = ""
        self._last_waiting_s = 0.0

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def stage(self, text: str) -> None:
        """A step has begun."""
        self.end_waiting()
        self._print(f"[dim]{self.elapsed_s:6.1f} s[/]  {escape(text)}")

    def waiting(self, text: str) -> None:
        """What the start waits for right now."""
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            if self._status is None:
                self._status = self._console.status("")
                self._status.start()
            self._status.update(f"{escape(text)} [dim]({self.elapsed_s:.0f} s)[/]")
        elif text != self._last_waiting or time.monotonic() - self._last_waiting_s > REMINDER_PERIOD_S:
            self._last_waiting, self._last_waiting_s = text, time.monotonic()
            self._print(f"[dim]{self.elapsed_s:6.1f} s[/]    … {escape(text)}")

    def end_waiting(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def notice(self, text: str) -> None:
        """Something an operator should know while it runs."""
        self._print(f"[yellow]{time.strftime('%H:%M:%S')}[/]  {escape(text)}")

    def problem(self, text: str) -> None:
        self.end_waiting()
        self._print(f"[bold red]Darkroom cannot start.[/] {escape(text)}")

    def banner(self, settings: Settings, *, dashboard_url: str, token_path: Path, key_path: Path | None) -> None:
        self.end_waiting()
        rows = [
            ("API", f"{settings.public_url}/v1"),
            ("Docs", f"{settings.public_url}/docs"),
            ("Ray dashboard", f"{dashboard_url}   (asks for the token in {_short(token_path)})"),
            ("Admin key", f"in {_short(key_path)}" if key_path else "the one that you set"),
            ("Data and logs", _short(settings.state_dir)),
        ]
        self._print(f"\n[bold green]Darkroom is ready[/] after {self.elapsed_s:.0f} s.")
        for name, value in rows:
            self._print(f"  [bold]{name:<14}[/] {escape(value)}")
        is_store_local = (settings.s3.public_endpoint or "").startswith("http://127.0.0.1:")
        if settings.host not in {"127.0.0.1", "localhost", "::1"} and is_store_local:
            self._print(
                "  [yellow]Picture URLs point to 127.0.0.1: other machines need s3.public_endpoint, or b64_json.[/]"
            )
        self._print("  Ctrl-C stops it and everything it started.\n")

    def _print(self, text: str) -> None:
        try:
            self._console.print(text)
        except OSError:
            # A full disk below the log, or a terminal that has gone: the server goes on without being watched.
            return


def _short(path: Path) -> str:
    """Relative to where the person stands, if it is below."""
    here = Path(os.getcwd())
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
