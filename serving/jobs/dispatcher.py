"""Which jobs this Router drives now: those it is told of at once, and those it finds that nobody drives.

Each model has a lane of a few places; within a lane, priority and age decide who goes next.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from configs.settings import JobSettings
from serving.errors import AppError
from serving.jobs.driver import Driver
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


class Dispatcher:
    """Drives every job at most once in this process, however often it is asked to."""

    def __init__(
        self, driver: Driver, store: JobStore, model_ids: Sequence[str], *, settings: JobSettings, lane_width: int
    ) -> None:
        self._driver = driver
        self._store = store
        self._settings = settings
        self._lanes = {model_id: Lane(lane_width) for model_id in model_ids}
        self._tasks: dict[str, asyncio.Task[Job | None]] = {}

    async def drive(self, place: Place, model_id: str) -> Job | None:
        """The job once it has ended or was put back; None when another Router has it.

        The job goes on when the caller goes away: it was accepted, so it is made.
        """
        return await asyncio.shield(self._task_of(place, model_id))

    async def sweep_forever(self) -> None:
        """Finds jobs that nobody drives: accepted while no Router was there, put back, or with a lapsed lease."""
        while True:
            try:
                for job in await self._store.find_undriven(list(self._lanes), limit=MAX_FOUND):
                    if job.id not in self._tasks:
                        self._task_of(Place.of(job), job.model_id)
            except AppError as error:
                log.warning("queue not read", reason=error.message)
            await asyncio.sleep(self._settings.poll_s)

    def _task_of(self, place: Place, model_id: str) -> asyncio.Task[Job | None]:
        task = self._tasks.get(place.job_id)
        if task is None:
            task = asyncio.create_task(self._in_lane(place, model_id), name=place.job_id)
            self._tasks[place.job_id] = task
            task.add_done_callback(self._forget)
        return task

    async def _in_lane(self, place: Place, model_id: str) -> Job | None:
        came_at = time.perf_counter()
        async with self._lanes[model_id].enter(place):
            return await self._driver.drive(place.job_id, waited_s=time.perf_counter() - came_at)

    def _forget(self, task: asyncio.Task[Job | None]) -> None:
        del self._tasks[task.get_name()]
        if not task.cancelled() and (error := task.exception()) is not None:
            # The lease runs out and the job is driven again; whoever waits on the task gets the error too.
            log.error("drive broke off", job_id=task.get_name(), exc_info=error)
