"""Places of a lane, in any sequence of events: never more are taken than there are, and none is ever lost."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.jobs.job import Job, Line
from serving.jobs.lane import Lane, Place
from tests.serving.house import a_job
from tests.serving.jobs.test_lane import a_moment, num_free


class Play:
    """Jobs that come and go as they are told to. A waiter counts as inside once its enter() has returned."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.lane = Lane(width, lambda tenant: float(len(tenant)))
        self.jobs = [a_job(tenant="t" * (1 + index % 3)) for index in range(8)]
        self.waiting: dict[asyncio.Task[Job | None], int] = {}
        self.inside: list[int] = []  # how many pictures each makes
        self.for_lines: dict[Line, asyncio.Task[Job | None]] = {}  # the latest coming for each

    async def enter(self, index: int) -> None:
        if index not in self.waiting.values():
            self.waiting[asyncio.create_task(self.lane.enter(Place.of(self.jobs[index])))] = index

    async def enter_for_any(self, index: int) -> None:
        place = Place.of(self.jobs[index])
        if place.line not in self.for_lines or self.for_lines[place.line].done():
            self.for_lines[place.line] = asyncio.create_task(self.lane.enter(place, for_any=True))
            self.waiting[self.for_lines[place.line]] = -1

    async def that_was_all(self, index: int) -> None:
        line = Line.of(self.jobs[index])
        if line in self.for_lines and self.for_lines[line].done():
            self.lane.that_was_all(line)
            del self.for_lines[line]

    async def leave(self, index: int) -> None:
        if self.inside:
            self.lane.widen(self.inside.pop(index % len(self.inside)))

    async def cancel(self, index: int) -> None:
        if self.waiting:
            list(self.waiting)[index % len(self.waiting)].cancel()

    async def hand_over(self, index: int) -> None:
        if 1 in self.inside and self.lane.hand_over(self.jobs[index]):
            self.inside.remove(1)

    async def overdraw(self, index: int) -> None:
        if self.inside:
            self.lane.widen(-index)
            self.inside[-1] += index

    async def breathe(self, _index: int = 0) -> None:
        await a_moment()
        for task in [task for task in self.waiting if task.done()]:
            del self.waiting[task]
            if not task.cancelled():
                self.inside.append(1)
        assert len(self.inside) <= self.width
        comes_back = any(task.done() for task in self.for_lines.values())
        is_full = sum(self.inside) >= self.width
        assert not self.waiting or is_full or comes_back, "somebody waits though a place is free"

    async def empty(self) -> None:
        await self.breathe()
        while self.waiting or self.inside or self.for_lines:
            for index in range(len(self.jobs)):
                await self.that_was_all(index)
            await self.leave(0)
            await self.breathe()
        assert await num_free(self.lane) == self.width


STEPS = (
    *("enter", "enter", "enter_for_any", "that_was_all"),
    *("leave", "cancel", "hand_over", "overdraw", "breathe"),
)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 4), st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 7)), max_size=40))
def test_whatever_happens_no_more_than_the_width_are_inside_and_no_place_is_lost(
    width: int, steps: list[tuple[str, int]]
) -> None:
    async def run() -> None:
        play = Play(width)
        for step, index in steps:
            await getattr(play, step)(index)
        await play.empty()

    asyncio.run(run())
