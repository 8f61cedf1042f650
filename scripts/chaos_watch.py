"""Looks at every job of the round twice a second while faults go on, and notes each move that must not be."""

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Any

from configs.settings import MongoSettings
from serving.errors import Unavailable
from serving.mongo import Mongo

WATCH_PERIOD_S = 0.5
STOP_TIMEOUT_S = 30.0
MAX_JOBS = 10_000
FINAL = {"succeeded", "failed", "cancelled"}


class Chronicle:
    """The last known fence and status of every job, and what went backwards."""

    def __init__(self) -> None:
        self.backward: list[str] = []
        self.num_looks = 0
        self._last: dict[str, tuple[int, str]] = {}

    def note(self, document: Mapping[str, Any]) -> None:
        job_id, fence, status = document["_id"], document["fence"], document["status"]
        last_fence, last_status = self._last.get(job_id, (0, "queued"))
        if fence < last_fence:
            self.backward.append(f"{job_id}: its fence went from {last_fence} to {fence}")
        if last_status in FINAL and status != last_status:
            self.backward.append(f"{job_id}: {last_status} already, then {status}")
        self._last[job_id] = (fence, status)


class Watcher:
    """A thread with a connection of its own, which must not share the fate of anything that is killed."""

    def __init__(self, settings: MongoSettings) -> None:
        self.chronicle = Chronicle()
        self._settings = settings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._watch()), name="watcher", daemon=True)
        self._since = time.time()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(STOP_TIMEOUT_S)

    def forget(self) -> None:
        """From here on it looks at newer jobs only."""
        self._since = time.time()

    async def _watch(self) -> None:
        mongo = Mongo(self._settings)
        jobs = mongo.across_tenants("jobs", "drive_jobs")
        try:
            while not self._stop.is_set():
                try:
                    query = {"created_at": {"$gte": self._since}}
                    for document in await jobs.find(query, sort=[("created_at", 1)], limit=MAX_JOBS):
                        self.chronicle.note(document)
                    self.chronicle.num_looks += 1
                except Unavailable:
                    pass  # killed or frozen just now, which is what we are here for
                await asyncio.sleep(WATCH_PERIOD_S)
        finally:
            await mongo.close()
