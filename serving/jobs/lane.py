"""Places in one model's engine, and who gets the next: by priority, then fair shares between tenants, then age.

Knows no database: Routers tell it who waits. Single-threaded, like the loop it lives on.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from serving.jobs.job import Job, Line


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job waits. Ids sort by time, so within a line the smaller id goes first."""

    line: Line
    job_id: str

    @classmethod
    def of(cls, job: Job) -> "Place":
        return cls(Line.of(job), job.id)


class Lane:
    """A bounded number of pictures in the making; waiting for a place is fair between tenants.

    Of the waiting ones of the best priority, the tenant goes first that has used least of the device lately
    (`used`, in seconds), and of its jobs the oldest. So a tenant's first job waits for one place to come free, however
    many jobs others have put before it.
    """

    def __init__(self, width: int, used: Callable[[str], float]) -> None:
        self._num_free = width
        self._used = used
        self._waiting: dict[Line, list[tuple[str, int, bool, asyncio.Future[Job | None]]]] = {}
        self._by_job: dict[str, asyncio.Future[Job | None]] = {}
        self._coming_back: dict[Line, str] = {}  # with the job that was first there
        self._arrivals = itertools.count()

    async def enter(self, place: Place, *, for_any: bool = False) -> Job | None:
        """Waits for a place, which leave() gives back.

        Returns the job where another waiter has claimed it meanwhile and handed it over. `for_any`: whoever is first
        in that line takes the place; `place` only says how old the line is. Whoever stands there for a whole line is
        expected back for the next of it, until it says that this was all.
        """
        turn: asyncio.Future[Job | None] = asyncio.get_running_loop().create_future()
        entry = (place.job_id, next(self._arrivals), for_any, turn)
        heapq.heappush(self._waiting.setdefault(place.line, []), entry)
        if not for_any:
            self._by_job[place.job_id] = turn
        self._let_in()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()  # the turn came together with the cancellation: hand it on
            raise
        finally:
            if self._by_job.get(place.job_id) is turn:
                del self._by_job[place.job_id]

    def that_was_all(self, line: Line) -> None:
        """Nobody comes back for this line: others need not wait for its turn."""
        self._coming_back.pop(line, None)
        self._let_in()

    def hand_over(self, job: Job) -> bool:
        """Gives one's own place to the one who waits here for this very job; False when nobody does."""
        turn = self._by_job.get(job.id)
        if turn is None or turn.done():
            return False
        turn.set_result(job)
        return True

    def widen(self, num_pictures: int) -> None:
        """Takes or gives back places beyond the first: a job of several pictures may overdraw."""
        self._num_free += num_pictures
        self._let_in()

    def leave(self) -> None:
        self.widen(1)

    def _let_in(self) -> None:
        while self._num_free > 0:
            first = {**self._coming_back, **dict(self._first_of_lines())}
            line = min(first, key=lambda line: (line.priority_rank, self._used(line.tenant), first[line]), default=None)
            if line not in self._waiting:
                return  # nobody waits, or it is the turn of one who is back in a moment
            job_id, _, for_any, turn = heapq.heappop(self._waiting[line])
            if for_any:
                self._coming_back[line] = job_id
            self._num_free -= 1
            turn.set_result(None)

    def _first_of_lines(self) -> Iterator[tuple[Line, str]]:
        """The oldest who still wait, by line; lines in which nobody does are forgotten."""
        for line, waiting in list(self._waiting.items()):
            while waiting and waiting[0][-1].done():  # gave up, or was handed its job
                heapq.heappop(waiting)
            if waiting:
                yield line, waiting[0][0]
            else:
                del self._waiting[line]
