"""Whether the queue has room for one more job, and if not, when. Exact near a limit; elsewhere an older count does."""

import asyncio
import math
import time

from configs.settings import JobSettings
from serving.errors import AppError, TooManyRequests
from serving.jobs.store import JobStore
from serving.telemetry import get_logger

log = get_logger("queue")

# Two counts cost about 2 ms of every request; below half of a limit their age does not matter.
EXACT_FROM_SHARE = 0.5
REFRESH_S = 0.5
MAX_TENANTS = 10_000  # remembered at once
RETRY_AFTER_S = 10  # while no rate is known
MIN_RETRY_AFTER_S, MAX_RETRY_AFTER_S = 1, 300
HALF_LIFE_S = 30.0  # of what was seen of a queue's rate
LEAST_SEEN_S = 1.0  # less is no measurement


class Outflow:
    """How fast jobs leave one queue, lately.

    Between two counts as many have left as were added and are not there any more. This process knows what it has added
    itself; what other processes add hides some of those that left, so with several the rate comes out too low, never
    too high. Of a full queue every refused request makes a count, so its rate is known best when it is asked for.
    """

    def __init__(self) -> None:
        self._num_left = 0.0
        self._seen_s = 0.0

    def note(self, num_left: int, *, within_s: float) -> None:
        """`num_left` may be below 0 where a job was counted before it was stored; the next count makes up for it."""
        kept = 0.5 ** (within_s / HALF_LIFE_S)
        self._num_left = self._num_left * kept + num_left
        self._seen_s = self._seen_s * kept + within_s

    def seconds_for(self, num_jobs: int) -> int:
        """Whole seconds until so many will have left, for Retry-After."""
        if self._seen_s < LEAST_SEEN_S:
            return RETRY_AFTER_S
        if self._num_left <= 0:
            return MAX_RETRY_AFTER_S
        needed_s = num_jobs * self._seen_s / self._num_left
        return max(MIN_RETRY_AFTER_S, min(MAX_RETRY_AFTER_S, math.ceil(needed_s)))


class _Count:
    """One count of waiting jobs, and how many this process has added since."""

    def __init__(self, num_waiting: int, outflow: Outflow) -> None:
        self.read_at = time.monotonic()
        self.upper_bound = num_waiting
        self.outflow = outflow


class QueueRoom:
    """Counts waiting jobs of all tenants (key None) and of each tenant."""

    def __init__(self, store: JobStore, settings: JobSettings) -> None:
        self._store = store
        self._settings = settings
        self._counts: dict[str | None, _Count] = {}
        self._refreshing: dict[str | None, asyncio.Task[None]] = {}

    async def take(self, tenant: str, *, max_of_tenant: int | None = None) -> None:
        """Room for one more job of this tenant, or TooManyRequests. None: the limit of tenants without one."""
        max_of_all = self._settings.max_queued
        of_all = await self._count(None, max_of_all)
        if of_all.upper_bound >= max_of_all:
            raise TooManyRequests(
                f"The queue is full ({max_of_all} jobs). Try again later.",
                retry_after_s=of_all.outflow.seconds_for(of_all.upper_bound - max_of_all + 1),
            )
        limit = self._settings.max_queued_per_tenant if max_of_tenant is None else max_of_tenant
        of_tenant = await self._count(tenant, limit)
        if of_tenant.upper_bound >= limit:
            raise TooManyRequests(
                f"You have {of_tenant.upper_bound} jobs waiting, and {limit} is the most you may have.",
                retry_after_s=of_tenant.outflow.seconds_for(of_tenant.upper_bound - limit + 1),
                code="tenant_queue_full",
            )
        for key in (None, tenant):
            if (newest := self._counts.get(key)) is not None:  # another request may have counted meanwhile
                newest.upper_bound += 1

    async def _count(self, key: str | None, limit: int) -> _Count:
        count = self._counts.get(key)
        if count is None or count.upper_bound >= limit * EXACT_FROM_SHARE:
            return await self._read(key)
        if time.monotonic() - count.read_at > REFRESH_S and key not in self._refreshing:
            task = asyncio.create_task(self._refresh(key))
            self._refreshing[key] = task
            task.add_done_callback(lambda _: self._refreshing.pop(key))
        return count

    async def _refresh(self, key: str | None) -> None:
        try:
            await self._read(key)
        except AppError as error:
            log.warning("queue not counted", reason=error.message)

    async def _read(self, key: str | None) -> _Count:
        if len(self._counts) > MAX_TENANTS:
            self._counts.clear()
        num_waiting = await self._store.count_queued(key)
        before = self._counts.get(key)
        count = _Count(num_waiting, Outflow() if before is None else before.outflow)
        if before is not None:
            count.outflow.note(before.upper_bound - num_waiting, within_s=count.read_at - before.read_at)
        self._counts[key] = count
        return count
