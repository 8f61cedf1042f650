"""Which frames are wanted, said in times alone: known beforehand from a timeline, or found out while frames go by."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TOLERANCE_S = 1e-4  # times that went through text are a little off; frames are never that close together


class Wish(Protocol):
    """Asked about frames in the order they are shown; remembers what it was asked."""

    def pick(self, times_s: NDArray[np.float64], is_cheap: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Which of these frames, all that there are, are wanted and were not yet granted."""
        ...

    def count(self, start_s: float, end_s: float) -> int:
        """How often the frame that is shown from start to end is wanted; each wish is granted once."""
        ...


class EveryFew:
    """One frame out of each stretch of 1/hz seconds: a cheap one where there is one, or else the first."""

    def __init__(self, hz: float) -> None:
        self._hz = hz
        self._last = -1

    def pick(self, times_s: NDArray[np.float64], is_cheap: NDArray[np.bool_]) -> NDArray[np.int64]:
        stretches = np.floor((times_s + TOLERANCE_S) * self._hz)
        by_cost = np.lexsort((np.arange(len(times_s)), ~is_cheap, stretches))
        _, first = np.unique(stretches[by_cost], return_index=True)
        picked = np.sort(by_cost[first])
        return picked[stretches[picked] > self._last]

    def count(self, start_s: float, end_s: float) -> int:
        stretch = int((start_s + TOLERANCE_S) * self._hz)
        if stretch <= self._last:
            return 0
        self._last = stretch
        return 1


class AtTimes:
    """The frames that are on the screen at given times; before the first it is the first, after the last the last."""

    def __init__(self, times_s: Sequence[float]) -> None:
        self._times_s = np.sort(np.asarray(times_s, np.float64)) + TOLERANCE_S
        self._num_granted = 0

    def pick(self, times_s: NDArray[np.float64], is_cheap: NDArray[np.bool_]) -> NDArray[np.int64]:
        del is_cheap  # these and no others
        left_s = self._times_s[self._num_granted :]
        return np.unique(np.maximum(np.searchsorted(times_s, left_s, side="right") - 1, 0))

    def count(self, start_s: float, end_s: float) -> int:
        num_before = int(np.searchsorted(self._times_s, end_s))
        num_new = max(0, num_before - self._num_granted)
        self._num_granted = max(self._num_granted, num_before)
        return num_new
