"""Checkpoints that survive a kill at any instant, and the loss log beside them."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write the whole state to a temporary file, then rename: a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The saved state, or None where there is none yet. Only tensors and plain values are read."""
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


class Stopwatch:
    """Counts training time over restarts, so that a budget means work done and not time passed."""

    def __init__(self, spent_s: float, budget_s: float) -> None:
        self.budget_s = budget_s
        self._before_s = spent_s
        self._started_s = time.monotonic()

    @property
    def spent_s(self) -> float:
        """Seconds of training so far, earlier runs included."""
        return self._before_s + time.monotonic() - self._started_s

    @property
    def progress(self) -> float:
        """Share of the budget used, 0..1."""
        return min(self.spent_s / self.budget_s, 1.0)


class LossLog:
    """Appends one JSON line per report; lines after the resumed step are repeated, never lost."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def write(self, **figures: float | int | str) -> None:
        """Append one line, with the wall clock."""
        line = json.dumps({"time_s": round(time.time(), 1), **figures})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
