"""When a job will probably have ended: from its place in line and the pace that the Routers measure.

Routers publish documents {_id: "owner/model", model, jobs_per_s, mean_s, at}: how many jobs of the model they ended per
second while jobs were waiting, how long one took from its claim to its end, and when that was written.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from serving.jobs.job import Job
from serving.jobs.store import JobStore
from serving.mongo import Document, Mongo

T = TypeVar("T")

FRESH_S = 60.0  # an older pace is of a Router that is gone, or that has nothing to do
MAX_PACES = 1_000
# What a hundred clients ask for in one second is looked up once.
REMEMBER_PACES_S = 2.0
REMEMBER_POSITION_S = 1.0
MAX_POSITIONS = 10_000


@dataclass(frozen=True, slots=True)
class KnownPace:
    """Of one model, all Routers together."""

    jobs_per_s: float
    mean_s: float


@dataclass(frozen=True, slots=True)
class Outlook:
    """Where a job stands; None where that is not known, or the job does not wait any more."""

    queue_position: int | None = None
    eta_s: float | None = None


def eta_s(position: int | None, pace: KnownPace | None, job: Job, *, now: float) -> float | None:
    """Seconds until the job has ended; None when it has, or when nobody can tell.

    A waiting job ends when all before it have left at the measured pace, and it has taken the time that jobs take. A
    running one takes as long as whoever is at work says, or goes on as it went so far.
    """
    if job.is_final:
        return None
    if job.status == "running":
        if job.told_eta_s is not None:
            return job.told_eta_s
        spent_s = now - (job.started_at or now)
        if 0 < job.progress < 100:
            return max(0.0, spent_s * (100 - job.progress) / job.progress)
        return None if pace is None else max(0.0, pace.mean_s - spent_s)
    if pace is None or position is None:
        return None
    return max(position / pace.jobs_per_s, job.not_before - now) + pace.mean_s


def paces_of(documents: list[Document]) -> dict[str, KnownPace]:
    """By model. A Router counts for one job at a time at least: what it did while it had little to do is no limit."""
    rates: dict[str, list[tuple[float, float]]] = {}
    for document in documents:
        mean_s = float(document["mean_s"])
        if mean_s > 0:
            rates.setdefault(document["model"], []).append((max(float(document["jobs_per_s"]), 1 / mean_s), mean_s))
    return {
        model: KnownPace(
            total := sum(rate for rate, _ in of_routers), sum(rate * mean for rate, mean in of_routers) / total
        )
        for model, of_routers in rates.items()
    }


class Forecast:
    """Positions and paces, each looked up once in a while however many ask."""

    def __init__(self, mongo: Mongo, store: JobStore) -> None:
        self._mongo = mongo
        self._store = store
        self._paces: Fresh[Mapping[str, KnownPace]] | None = None
        self._positions: dict[str, Fresh[int]] = {}

    async def of(self, job: Job) -> Outlook:
        """How things stand for the job."""
        if job.is_final:
            return Outlook()
        pace = (await self._pace_of_all()).get(job.model_id)
        position = await self._position(job) if job.status == "queued" else None
        return Outlook(position, eta_s(position, pace, job, now=time.time()))

    async def _pace_of_all(self) -> Mapping[str, KnownPace]:
        if self._paces is None or self._paces.is_old:
            self._paces = Fresh(self._read_paces, for_s=REMEMBER_PACES_S)
        return await self._paces.value()

    async def _read_paces(self) -> Mapping[str, KnownPace]:
        paces = self._mongo.across_tenants("paces", "share_queue")
        fresh = {"at": {"$gt": time.time() - FRESH_S}}
        return paces_of(await paces.find(fresh, sort=[("at", -1)], limit=MAX_PACES))

    async def _position(self, job: Job) -> int:
        known = self._positions.get(job.id)
        if known is None or known.is_old:
            if len(self._positions) >= MAX_POSITIONS:
                self._positions.clear()
            known = self._positions[job.id] = Fresh(lambda: self._store.queue_position(job), for_s=REMEMBER_POSITION_S)
        return await known.value()


class Fresh(Generic[T]):
    """One value that is being looked up, for all who want to know it in the time that it is good for."""

    def __init__(self, look_up: Callable[[], Awaitable[T]], *, for_s: float) -> None:
        self._looking = asyncio.ensure_future(look_up())
        self._good_until = time.monotonic() + for_s

    @property
    def is_old(self) -> bool:
        has_failed = self._looking.done() and (self._looking.cancelled() or self._looking.exception() is not None)
        return has_failed or time.monotonic() >= self._good_until

    async def value(self) -> T:
        # Shielded: one who goes away must not take the answer from the others.
        return await asyncio.shield(self._looking)
