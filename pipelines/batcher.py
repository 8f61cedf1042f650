"""Who advances one denoising step together: a pure policy. Knows no tensor, no clock, no thread and no request.

*Whose turn.* Every active sample has a moment at which its next step is due, and the turn goes to the picture size
that holds the earliest due one: earliest due date first (Jackson, 1955). A newcomer is due the moment it is ready.

*Due again.* A round is what a sample's part of its step cost, times the samples that share the device: due again a
round later, each would get an equal share of the time (proportional share, as in stride scheduling: Waldspurger and
Weihl, 1995). But slicing time evenly makes everybody finish late; one after the other, most finish early. So the
rounds until a sample is due again shrink with its progress, from FIRST_ROUNDS to LAST_ROUNDS: what is nearly done
hurries. And they stay above one, so that less time is promised than there is: what runs is seldom overdue, and a
newcomer gets its first step next, whatever runs. The time that nobody was promised goes to who is due first, mostly
to what costs little.

*Nobody starves.* A due moment, once given, stays; later comers are due later. So a sample that is due waits at most
for one turn of each sample that was due before it, however many arrive.

*How many.* Samples of that size enter by due moment, early ones too: sharing a step is cheaper than having one alone,
so a size that fell apart comes together again. But it packs only where that pays: the shortest step whose rows per
second are near the best that the waiting rows allow. Large pictures on a large model gain nothing from packing;
there, short steps leave the turn to others sooner.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

StepSeconds = Callable[[int, int, int], float]  # (width_px, height_px, rows) -> expected seconds of one step

# A step may give up this share of the best throughput to be shorter. At 0.03 a burst of mixed sizes loses 5 % of its
# throughput (simulated): small concessions at every step add up.
MAX_THROUGHPUT_LOSS = 0.01
FIRST_ROUNDS = 10.0
LAST_ROUNDS = 1.25
# Of the time by which a sample went early, this share is added to its next due moment. When a size has more samples
# than fit, those that rode along then come after those that had to wait; without it the same few ride every time.
KEPT_LEAD = 0.25


@dataclass(frozen=True, slots=True)
class Candidate:
    """One active sample as the batcher sees it."""

    id: int  # unique; grows with arrival
    width_px: int
    height_px: int
    num_rows: int  # of the forward pass: 2 with guidance, else 1
    due_s: float  # when its next step is due, on the engine's clock
    progress: float = 0.0  # 0–1, the share of its steps that is done


@dataclass(frozen=True, slots=True)
class Budget:
    """What one forward pass may hold."""

    max_rows: int
    max_px: int  # rows × width × height


def choose_batch(candidates: Iterable[Candidate], step_s: StepSeconds, budget: Budget) -> tuple[int, ...]:
    """The ids that make the next step together: of one size, within the budget, the earliest due one among them.

    That one goes even if it alone exceeds the budget. Empty only when there are no candidates.
    """
    queue = sorted(candidates, key=lambda candidate: (candidate.due_s, candidate.id))
    if not queue:
        return ()
    width_px, height_px = _size(queue[0])
    group = [candidate for candidate in queue if _size(candidate) == (width_px, height_px)]
    max_rows = min(budget.max_rows, budget.max_px // (width_px * height_px))
    packings = [
        _Packing(num_samples, num_rows, step_s(width_px, height_px, num_rows))
        for num_samples, num_rows in enumerate(accumulate(candidate.num_rows for candidate in group), start=1)
        if num_samples == 1 or num_rows <= max_rows
    ]
    return tuple(candidate.id for candidate in group[: _best(packings).num_samples])


def next_due_s(batch: Sequence[Candidate], *, num_active: int, now_s: float, step_s: StepSeconds) -> dict[int, float]:
    """When each sample of a batch is due again, by id.

    Call it after the step: with the progress that it made, and with the due moment that it met.
    """
    num_rows = sum(candidate.num_rows for candidate in batch)
    round_s = num_active * step_s(*_size(batch[0]), num_rows) / len(batch)
    return {
        candidate.id: now_s + round_s * _rounds(candidate.progress) + KEPT_LEAD * max(0.0, candidate.due_s - now_s)
        for candidate in batch
    }


@dataclass(frozen=True, slots=True)
class _Packing:
    num_samples: int
    num_rows: int
    step_s: float

    @property
    def rows_per_s(self) -> float:
        return self.num_rows / self.step_s


def _best(packings: Sequence[_Packing]) -> _Packing:
    """The shortest step among those whose throughput is near the best; rows that lengthen no step ride along."""
    enough_rows_per_s = (1 - MAX_THROUGHPUT_LOSS) * max(packing.rows_per_s for packing in packings)
    paying = (packing for packing in packings if packing.rows_per_s >= enough_rows_per_s)
    return min(paying, key=lambda packing: (packing.step_s, -packing.num_samples))


def _rounds(progress: float) -> float:
    """From FIRST_ROUNDS to LAST_ROUNDS, by an equal factor at every step."""
    return LAST_ROUNDS * math.pow(FIRST_ROUNDS / LAST_ROUNDS, 1 - progress)


def _size(candidate: Candidate) -> tuple[int, int]:
    return candidate.width_px, candidate.height_px
