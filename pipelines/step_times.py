"""How long a denoising step takes, by picture size and rows: measured at load, corrected by every step, kept on disk.

Knows no torch and no model: who measures hands in a function that makes one step. One thread may write while others
read: a curve is never changed, only replaced.
"""

import math
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from pathlib import Path
from statistics import median
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from models.errors import OutOfMemory

Size = tuple[int, int]  # width_px, height_px
Curve = tuple[tuple[int, float], ...]  # (rows, seconds), rows growing

REPEATS = 3  # the median of three forgets one hiccup, and the first run's warm-up
# Of a step's time at one row count, this share is taken for overhead while no other row count is known. A guess that
# favours packing gets tried, and is then corrected; one that is against it would never be found out.
GUESSED_OVERHEAD = 0.5
GUESSED_S_PER_PX = 1e-7
LEARNING_RATE = 0.1  # of an observation's logarithmic error
MAX_ERROR = 2.0  # an observation further off than this factor counts as this far off
# What slows one row count mostly slows all (another process, a hot device), so all follow half the way. Otherwise row
# counts that are out of use would keep times from better or worse days and be chosen or shunned for them.
SHARED = 0.5


class StepTimes:
    """The table of measured step times of one model on one device; call it for the expected seconds of a step."""

    def __init__(self, fingerprint: Mapping[str, str]) -> None:
        """`fingerprint`: what times depend on (device, dtype, weights, torch, settings), by name."""
        self._fingerprint = dict(fingerprint)
        self._curves: dict[Size, Curve] = {}
        self.ignored: str | None = None  # why `load` took nothing over

    def __call__(self, width_px: int, height_px: int, rows: int) -> float:
        """Expected seconds, always positive; sizes never seen are judged by their pixels."""
        curves = self._curves
        if curve := curves.get((width_px, height_px)):
            return _read(curve, rows, overhead=GUESSED_OVERHEAD)
        if not curves:
            return _read(((1, GUESSED_S_PER_PX * width_px * height_px),), rows, overhead=GUESSED_OVERHEAD)
        by_px = {size[0] * size[1]: _read(curve, rows, overhead=GUESSED_OVERHEAD) for size, curve in curves.items()}
        return _read(tuple(sorted(by_px.items())), width_px * height_px, overhead=0.0)

    def entries(self) -> list[tuple[int, int, int, float]]:
        """Every (width_px, height_px, rows, seconds) of the table as it stands."""
        return [(*size, rows, seconds) for size, curve in self._curves.items() for rows, seconds in curve]

    def observe(self, width_px: int, height_px: int, rows: int, seconds: float) -> None:
        """Corrects the table by a step that was made; one outlier hardly moves it."""
        assert seconds > 0, "a step takes time"
        size = (width_px, height_px)
        curve = self._curves.get(size, ())
        expected_s = self(*size, rows)
        error = min(max(seconds / expected_s, 1 / MAX_ERROR), MAX_ERROR) if self._curves else seconds / expected_s
        if all(rows >= 2 * known or known >= 2 * rows for known, _ in curve):
            # Far from every entry it becomes one; entries closer than that would turn noise into slopes.
            self._put(size, rows, expected_s * error)
        else:
            self._curves = {**self._curves, size: _corrected(curve, rows, error)}

    def measure(
        self,
        sizes: Iterable[Size],
        rows: Iterable[int],
        run: Callable[[int, int, int], float],
        budget_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> tuple[tuple[int, int, int], ...]:
        """Times every missing pair, smaller first, until the budget is used; returns what ran out of memory.

        `run(width_px, height_px, rows)` makes one step and says how many seconds it took.
        """
        stop_s = clock() + budget_s
        too_large: dict[Size, int] = {}
        for size, num_rows in sorted(product(sizes, rows), key=lambda pair: (math.prod(pair[0]) * pair[1], pair)):
            if num_rows in dict(self._curves.get(size, ())) or size in too_large:
                continue
            if clock() + self(*size, num_rows) > stop_s:
                break
            try:
                times_s = [run(*size, num_rows)]
                while len(times_s) < REPEATS and clock() < stop_s:
                    times_s.append(run(*size, num_rows))
            except OutOfMemory:
                too_large[size] = num_rows
            else:
                self._put(size, num_rows, median(times_s))
        return tuple((*size, num_rows) for size, num_rows in too_large.items())

    def save(self, path: Path) -> None:
        """Writes the table, whole or not at all."""
        saved = _SavedTable(fingerprint=self._fingerprint, steps=self.entries())
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            unfinished.write_text(saved.model_dump_json())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path, fingerprint: Mapping[str, str]) -> Self:
        """The table saved at `path`; an empty one whose `ignored` says why if that does not fit or cannot be read."""
        table = cls(fingerprint)
        try:
            saved = _SavedTable.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            table.ignored = "no table saved yet"
        except OSError as error:
            table.ignored = f"unreadable: {error.strerror}"
        except ValidationError as error:
            table.ignored = f"damaged: {error.errors()[0]['msg']}"
        else:
            table.ignored = _difference(saved.fingerprint, table._fingerprint)
            for width_px, height_px, rows, seconds in saved.steps if table.ignored is None else ():
                table._put((width_px, height_px), rows, seconds)
        return table

    def _put(self, size: Size, rows: int, seconds: float) -> None:
        curve = dict(self._curves.get(size, ())) | {rows: seconds}
        self._curves = {**self._curves, size: tuple(sorted(curve.items()))}


class _SavedTable(BaseModel):
    """The file on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    fingerprint: dict[str, str]
    steps: list[tuple[PositiveInt, PositiveInt, PositiveInt, Annotated[float, Field(gt=0, allow_inf_nan=False)]]]


def _read(points: Curve, x: int, *, overhead: float) -> float:
    """Seconds at `x`: straight lines between the points and on past the outer ones.

    One point alone is taken for `overhead` (a share of it) plus a part in proportion to x.
    """
    first_x, first_s = points[0]
    if len(points) == 1:
        return first_s * (overhead + (1 - overhead) * x / first_x)
    right = min(max(bisect_left(points, (x,)), 1), len(points) - 1)
    (x_0, s_0), (x_1, s_1) = points[right - 1 : right + 1]
    seconds = s_1 if x == x_1 else s_0 + (s_1 - s_0) * (x - x_0) / (x_1 - x_0)
    if x < first_x:
        # Less work takes less time, but not less than in proportion.
        return min(first_s, max(seconds, first_s * x / first_x))
    if x > points[-1][0]:
        return max(seconds, *(s for _, s in points))
    return seconds


def _corrected(curve: Curve, rows: int, error: float) -> Curve:
    """The curve moved towards an observation at `rows` that was `error` times the expected."""
    nearness = _nearness([known for known, _ in curve], rows)
    return tuple(
        (known, seconds * error ** (LEARNING_RATE * max(nearness.get(known, 0.0), SHARED))) for known, seconds in curve
    )


def _nearness(known_rows: list[int], rows: int) -> dict[int, float]:
    """How much of the time at `rows` is read from which entries; together 1."""
    right = bisect_left(known_rows, rows)
    if right == len(known_rows):
        return {known_rows[-1]: 1.0}
    if right == 0 or known_rows[right] == rows:
        return {known_rows[right]: 1.0}
    low, high = known_rows[right - 1 : right + 1]
    return {low: (high - rows) / (high - low), high: (rows - low) / (high - low)}


def _difference(saved: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """Names what a saved table was measured with and is not the case now."""
    names = sorted(name for name in saved.keys() | now.keys() if saved.get(name) != now.get(name))
    return "; ".join(f"{name} was {saved.get(name)!r}, is {now.get(name)!r}" for name in names) or None
