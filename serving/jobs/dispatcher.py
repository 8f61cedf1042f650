"""Which jobs this Router drives now: those it is told of at once, and those it finds that nobody drives.

Each model has a lane of a few places; within a lane, priority and age decide who goes next.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from configs.settings import JobSettings
from serving.errors import AppError
from serving.jobs.driver import Driver
from serving.jobs.feed import Feed, News
from serving.jobs.job import PRIORITY_RANK, Job
from serving.jobs.store import JobStore
from serving.telemetry import get_logger

log = get_logger("dispatcher")

MAX_FOUND = 100  # jobs taken on per look at the queue; the rest are found at the next


@dataclass(frozen=True, order=True, slots=True)
class Place:
    """A job's place in its lane: smaller goes first."""

    priority_rank: int
    created_at: float
    job_id: str

    @classmethod
    def of(cls, job: Job) -> "Place":
        return cls(PRIORITY_RANK[job.priority], job.created_at, job.id)


class Lane:
    """A semaphore whose waiters are served by place, not by arrival."""

    def __init__(self, width: int) -> None:
        self._num_free = width
        self._waiting: list[tuple[Place, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    @asynccontextmanager
    async def enter(self, place: Place) -> AsyncIterator[None]:
        if self._num_free > 0:
            self._num_free -= 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (place, next(self._arrivals), turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave()  # the turn came together with the cancellation: hand it on
                raise
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._num_free += 1


@dataclass(frozen=True, slots=True)
class Drive:
    """One job on its way through this Router, and what it says."""

    task: "asyncio.Task[Job | None]"
    feed: Feed

    async def outcome(self) -> Job | None:
        """The job once it has ended or was put back; None when it is not ours, or was called off."""
        # Not `await self.task`: who waits and goes away must not take the job along.
        await asyncio.wait({self.task})
        return None if self.task.cancelled() else self.task.result()


class Dispatcher:
    """Drives every job at most once in this process, however often it is asked to."""

    def __init__(
        self, driver: Driver, store: JobStore, model_ids: Sequence[str], *, settings: JobSettings, lane_width: int
    ) -> None:
        self._driver = driver
        self._store = store
        self._settings = settings
        self._lanes = {model_id: Lane(lane_width) for model_id in model_ids}
        self._drives: dict[str, Drive] = {}

    async def drive(self, place: Place, model_id: str) -> Job | None:
        """The job once it has ended or was put back; None when another Router has it, or it was called off.

        The job goes on when the caller goes away: it was accepted, so it is made.
        """
        return await self._drive_of(place, model_id).outcome()

    async def follow(self, place: Place, model_id: str) -> AsyncGenerator[News | Job, None]:
        """drive(), told as it happens: what the backend says, and last the job, where drive() would give it."""
        drive = self._drive_of(place, model_id)
        async with aclosing(drive.feed.follow()) as told:
            async for news in told:
                yield news
        if (job := await drive.outcome()) is not None:
            yield job

    def call_off(self, job_id: str) -> None:
        """Stops driving a job that was cancelled, in its lane or at work: its backend is free at the next step."""
        if (drive := self._drives.get(job_id)) is not None:
            log.info("drive called off", job_id=job_id)
            drive.task.cancel()

    async def sweep_forever(self) -> None:
        """Finds jobs that nobody drives: accepted while no Router was there, put back, or with a lapsed lease."""
        while True:
            try:
                for job in await self._store.find_undriven(list(self._lanes), limit=MAX_FOUND):
                    if job.id not in self._drives:
                        self._drive_of(Place.of(job), job.model_id)
            except AppError as error:
                log.warning("queue not read", reason=error.message)
            await asyncio.sleep(self._settings.poll_s)

    def _drive_of(self, place: Place, model_id: str) -> Drive:
        drive = self._drives.get(place.job_id)
        if drive is None:
            feed = Feed()
            task = asyncio.create_task(self._in_lane(place, model_id, feed), name=place.job_id)
            drive = self._drives[place.job_id] = Drive(task, feed)
            task.add_done_callback(self._forget)
        return drive

    async def _in_lane(self, place: Place, model_id: str, feed: Feed) -> Job | None:
        came_at = time.perf_counter()
        async with self._lanes[model_id].enter(place):
            waited_s = time.perf_counter() - came_at
            return await self._driver.drive(place.job_id, waited_s=waited_s, tell=feed.tell)

    def _forget(self, task: "asyncio.Task[Job | None]") -> None:
        self._drives.pop(task.get_name()).feed.end()
        if not task.cancelled() and (error := task.exception()) is not None:
            # The lease runs out and the job is driven again; whoever waits on the task gets the error too.
            log.error("drive broke off", job_id=task.get_name(), exc_info=error)
