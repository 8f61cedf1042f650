"""Which jobs this Router drives now: those it is told of at once, and those it finds that nobody drives.

Each model has a lane of places; who gets the next is decided there (lane.py). Beside it a sweep looks for lines in
which jobs wait that no Router was told of, and does the upkeep: leases of the dead, waits that are over, deadlines.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from configs.settings import JobSettings
from pipelines.request import Progress
from serving.errors import AppError, LeaseLost
from serving.jobs.driver import Driver
from serving.jobs.feed import Feed, News
from serving.jobs.job import Job, Line
from serving.jobs.lane import Lane, Place
from serving.jobs.pace import Pace
from serving.jobs.shares import Shares
from serving.jobs.store import JobStore
from serving.jobs.upkeep import JobUpkeep
from serving.telemetry import JOBS_TAKEN_OVER, get_logger

log = get_logger("dispatcher")

MAX_DUE = 200  # jobs per look at what is due


class Onlooker(Protocol):
    """Hears what becomes of the jobs of a Router, to pass it on. Both return at once."""

    def wake(self) -> None:
        """A job has just started or ended."""
        ...

    def tell_progress(self, job: Job, progress: Progress) -> None:
        """A job has come so far."""
        ...


@dataclass(slots=True)
class Drive:
    """One job on its way through this Router, and what it says."""

    feed: Feed = field(default_factory=Feed)
    task: "asyncio.Task[Job | None]" = field(init=False)
    is_claimed: bool = False

    async def outcome(self) -> Job | None:
        """The job once it has ended or was put back; None when it is not ours, or was called off."""
        # Not `await self.task`: who waits and goes away must not take the job along.
        await asyncio.wait({self.task})
        return None if self.task.cancelled() else self.task.result()


class Dispatcher:
    """Drives every job at most once in this process, however often it is asked to."""

    def __init__(
        self,
        driver: Driver,
        store: JobStore,
        upkeep: JobUpkeep,
        shares: Shares,
        paces: Sequence[Pace],
        *,
        settings: JobSettings,
        lane_widths: Mapping[str, int],
        onlooker: Onlooker,
    ) -> None:
        self._driver = driver
        self._store = store
        self._upkeep = upkeep
        self._shares = shares
        self._paces = {pace.model_id: pace for pace in paces}
        self._settings = settings
        self._onlooker = onlooker
        self._lanes = {model_id: Lane(lane_widths[model_id], shares.used_s) for model_id in self._paces}
        self._drives: dict[str, Drive] = {}
        self._tickets: dict[Line, asyncio.Task[None]] = {}
        self._is_draining = False
        self._look = asyncio.Event()

    async def drive(self, place: Place) -> Job | None:
        """The job once it has ended or was put back; None when another Router has it, or it was called off.

        The job goes on when the caller goes away: it was accepted, so it is made.
        """
        if (drive := self._drive_of(place)) is None:
            return None
        return await drive.outcome()

    async def follow(self, place: Place) -> AsyncGenerator[News | Job, None]:
        """drive(), told as it happens: what the backend says, and last the job, where drive() would give it."""
        if (drive := self._drive_of(place)) is None:
            return
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

    async def drain(self, *, deadline_s: float) -> None:
        """Claims nothing more, lets what runs finish within the deadline, and hands the rest back to the queue."""
        self._is_draining = True
        running = {drive.task for drive in self._drives.values() if drive.is_claimed}
        idle = {drive.task for drive in self._drives.values()} - running
        log.info("draining", running=len(running), let_go=len(idle))
        let_go: set[asyncio.Task[Any]] = {*idle, *self._tickets.values()}
        for task in let_go:
            task.cancel()
        if ending := running | let_go:
            await asyncio.wait(ending, timeout=deadline_s)
            left = {task for task in running if not task.done()}
            for task in left:
                task.cancel()
            await asyncio.wait(ending)  # until what they had claimed is handed back
            log.info("drained", handed_back=len(left))

    async def sweep_forever(self) -> None:
        """Finds jobs that nobody drives: accepted while no Router was there, put back, or with a lapsed lease."""
        while True:
            self._look.clear()
            try:
                await self._see_to_what_is_due()
                if not self._is_draining:
                    await self._take_tickets()
                await self._shares.exchange()
                for pace in self._paces.values():
                    await pace.tell()
            except AppError as error:
                log.warning("queue not read", reason=error.message)
            try:
                await asyncio.wait_for(self._look.wait(), self._settings.poll_s)
            except TimeoutError:
                continue  # nothing new was seen here: what others have put into line is found by looking

    async def _see_to_what_is_due(self) -> None:
        for job in await self._upkeep.due(limit=MAX_DUE):
            now = time.time()
            if job.status == "running":
                if await self._upkeep.release(job):
                    JOBS_TAKEN_OVER.inc()
                    log.warning("lease lapsed", job_id=job.id, owner=job.owner, attempt=job.attempts)
            elif job.expires_at <= now:
                if await self._upkeep.expire(job):
                    log.warning("job expired", job_id=job.id)
            elif await self._upkeep.promote(job):
                self._look.set()

    async def _take_tickets(self) -> None:
        for line, head_id in (await self._store.heads(list(self._lanes))).items():
            if line not in self._tickets and head_id not in self._drives:
                ticket = asyncio.create_task(self._work_off(line, head_id))
                self._tickets[line] = ticket
                ticket.add_done_callback(partial(self._hand_in, line))

    async def _work_off(self, line: Line, head_id: str) -> None:
        """Takes the jobs of a line one after the other, each in its turn, until nobody stands there any more."""
        lane = self._lanes[line.model_id]
        try:
            while not self._is_draining:
                await lane.enter(Place(line, head_id), for_any=True)
                is_passed_on = False
                try:
                    if (job := await self._claimed(self._driver.claim_next(line))) is None:
                        return
                    await self._pass_on(job, lane)
                    is_passed_on = True
                finally:
                    if not is_passed_on:
                        lane.leave()
                head_id = job.id
        finally:
            lane.that_was_all(line)

    async def _pass_on(self, job: Job, lane: Lane) -> None:
        """Gives a claimed job, and our place, to whoever waits for that very job here; else lets it set out."""
        try:
            while (known := self._drives.get(job.id)) is not None:
                if lane.hand_over(job):
                    known.is_claimed = True
                    return
                lane.that_was_all(Line.of(job))  # for now: nobody else is to wait with us
                await asyncio.wait({known.task})  # it was about to claim the job itself, and has come too late
        except asyncio.CancelledError:
            await self._hand_back(job)
            raise
        drive = self._set_out(job.id, partial(self._driven, job, lane, time.time() - job.created_at))
        drive.is_claimed = True
        drive.task.add_done_callback(lambda _: lane.leave())  # also when it is called off before its first step

    async def _claimed(self, claiming: Coroutine[None, None, Job | None]) -> Job | None:
        """A claim is not broken off on its way: the job could be ours then, and nobody would drive it."""
        claim = asyncio.create_task(claiming)
        try:
            return await asyncio.shield(claim)
        except asyncio.CancelledError:
            if (job := await claim) is not None:
                await self._hand_back(job)
            raise

    def _drive_of(self, place: Place) -> Drive | None:
        drive = self._drives.get(place.job_id)
        if drive is None and not self._is_draining:
            drive = self._set_out(place.job_id, partial(self._in_lane, place))
        return drive

    def _set_out(self, job_id: str, work: Callable[[Drive], Coroutine[None, None, Job | None]]) -> Drive:
        drive = self._drives[job_id] = Drive()
        drive.task = asyncio.create_task(work(drive), name=job_id)
        drive.task.add_done_callback(self._forget)
        return drive

    async def _in_lane(self, place: Place, drive: Drive) -> Job | None:
        lane, came_at = self._lanes[place.line.model_id], time.perf_counter()
        job = await lane.enter(place)
        try:
            job = job or await self._claimed(self._driver.claim(place.job_id))
            return None if job is None else await self._driven(job, lane, time.perf_counter() - came_at, drive)
        finally:
            lane.leave()

    async def _driven(self, job: Job, lane: Lane, waited_s: float, drive: Drive) -> Job | None:
        """Runs a claimed job, for which one place has been taken."""
        drive.is_claimed = True
        pace, began_at, heard_s = self._paces[job.model_id], time.perf_counter(), 0.0
        expected_s, num_more = pace.expected_s(job), job.request.num_places - 1

        def tell(news: News) -> None:
            nonlocal heard_s
            if isinstance(news, Progress):
                heard_s = news.device_s
                self._onlooker.tell_progress(job, news)
            drive.feed.tell(news)

        self._onlooker.wake()
        self._shares.begin(job.tenant, expected_s)
        lane.widen(-num_more)
        try:
            ended = await self._driver.drive(job, waited_s=waited_s, tell=tell)
            if ended is not None and ended.status == "succeeded":
                heard_s = ended.device_s - job.device_s
                num_beside = sum(other.is_claimed for other in self._drives.values())
                pace.observe(job, run_s=time.perf_counter() - began_at, device_s=heard_s, num_beside=num_beside)
            return ended
        except asyncio.CancelledError:
            if self._is_draining:
                await self._hand_back(job)
            raise
        finally:
            # No turn is free: jobs that fail at once, thousands of them, would go before everybody else's.
            self._shares.end(job.tenant, expected_s, heard_s or expected_s)
            lane.widen(num_more)
            self._onlooker.wake()

    async def _hand_back(self, job: Job) -> None:
        try:
            await self._store.hand_back(job)
            log.info("job handed back", job_id=job.id)
        except (LeaseLost, AppError) as error:
            # It has ended, or its lease will: either way it is not lost.
            log.warning("job not handed back", job_id=job.id, reason=str(error))

    def _forget(self, task: "asyncio.Task[Job | None]") -> None:
        self._drives.pop(task.get_name()).feed.end()
        error = None if task.cancelled() else task.exception()
        # The lease runs out and the job is driven again; whoever waits on the task gets the error too.
        if isinstance(error, AppError):
            log.warning("drive broke off", job_id=task.get_name(), reason=error.message)
        elif error is not None:
            log.error("drive broke off", job_id=task.get_name(), exc_info=error)

    def _hand_in(self, line: Line, ticket: "asyncio.Task[None]") -> None:
        del self._tickets[line]
        if not ticket.cancelled() and (error := ticket.exception()) is not None:
            log.warning("line not worked off", line=line.prefix, reason=str(error))  # the next look finds it again
