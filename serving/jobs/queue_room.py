"""Whether the queue has room for one more job. Exact near a limit; far from it an older count does."""

import asyncio
import time

from configs.settings import JobSettings
from serving.errors import AppError, TooManyRequests
from serving.jobs.store import JobStore
from serving.telemetry import get_logger

log = get_logger("queue")

RETRY_AFTER_S = 10
# Two counts cost about 2 ms of every request; below half of a limit their age does not matter.
EXACT_FROM_SHARE = 0.5
REFRESH_S = 0.5
MAX_TENANTS = 10_000  # remembered at once


class _Count:
    """One count of waiting jobs, and how many this process has added since."""

    def __init__(self, num_waiting: int) -> None:
        self.read_at = time.monotonic()
        self.upper_bound = num_waiting


class QueueRoom:
    """Counts waiting jobs of all tenants (key None) and of each tenant."""

    def __init__(self, store: JobStore, settings: JobSettings) -> None:
        self._store = store
        self._settings = settings
        self._counts: dict[str | None, _Count] = {}
        self._refreshing: dict[str | None, asyncio.Task[None]] = {}

    async def take(self, tenant: str) -> None:
        """Room for one more job of this tenant, or TooManyRequests."""
        limits = self._settings
        of_all = await self._count(None, limits.max_queued)
        if of_all.upper_bound >= limits.max_queued:
            raise TooManyRequests(
                f"The queue is full ({limits.max_queued} jobs). Try again later.", retry_after_s=RETRY_AFTER_S
            )
        of_tenant = await self._count(tenant, limits.max_queued_per_tenant)
        if of_tenant.upper_bound >= limits.max_queued_per_tenant:
            raise TooManyRequests(
                f"You have {limits.max_queued_per_tenant} jobs waiting, the most a tenant may have.",
                retry_after_s=RETRY_AFTER_S,
                code="tenant_queue_full",
            )
        of_all.upper_bound += 1
        of_tenant.upper_bound += 1

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
        count = _Count(await self._store.count_queued(key))
        self._counts[key] = count
        return count
