"""What the server is told about itself: that it is to stop, and which deployment of it is the newest.

One document, written by few and read by every process twice a second. Knows no HTTP and no Ray.
"""

import time
from dataclasses import dataclass

from configs.settings import JobSettings
from serving.errors import Conflict, Unavailable
from serving.mongo import Mongo
from serving.telemetry import get_logger

log = get_logger("draining")

BOARD_ID = "board"
FRESH_S = 0.5  # how old a process's picture of the board may be


def new_generation() -> int:
    """A number for a deployment, greater than that of every earlier one."""
    # Whole milliseconds: the embedded server keeps 15 digits of a number, and one that came back greater than it was
    # written would relieve its own writer.
    return int(time.time() * 1_000)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the board says."""

    drains_until: float = 0.0  # Unix seconds; 0: the server is not being stopped
    generation: int = 0  # the newest deployment of which a Router is up

    @property
    def is_draining(self) -> bool:
        return self.drains_until > 0

    def must_go_by(self, generation: int, *, drain_s: float) -> float | None:
        """When a process of that generation has to have let go of its jobs; None: it may go on."""
        if self.is_draining:
            return self.drains_until
        return time.time() + drain_s if self.generation > generation else None


class Board:
    """The document, and who is at work."""

    def __init__(self, mongo: Mongo, settings: JobSettings) -> None:
        self._server = mongo.across_tenants("server", "operate_server")
        self._jobs = mongo.across_tenants("jobs", "count_queue")
        self._lease_s = settings.lease_s
        self._last_seen = Standing()
        self._fresh_until_s = 0.0

    async def read(self) -> Standing:
        document = await self._server.find_one({"_id": BOARD_ID})
        self._fresh_until_s = time.monotonic() + FRESH_S
        if document is not None:
            self._last_seen = Standing(document.get("drains_until", 0.0), document.get("generation", 0))
        return self._last_seen

    async def glance(self) -> Standing:
        """read(), at most twice a second; while the database is away, what it said before."""
        if time.monotonic() >= self._fresh_until_s:
            # Before the first await: of many who ask at once, one looks.
            self._fresh_until_s = time.monotonic() + FRESH_S
            try:
                return await self.read()
            except Unavailable as error:
                log.warning("board not read", reason=error.message)
        return self._last_seen

    async def begin_drain(self, *, within_s: float) -> Standing:
        """From now on nothing new begins; what runs may end within that time."""
        return await self._change({"drains_until": time.time() + within_s})

    async def end_drain(self) -> None:
        """For a start: whoever was told to stop is gone."""
        await self._change({"drains_until": 0.0})

    async def announce(self, generation: int) -> None:
        """A Router of this generation is up: those of older ones hand over."""
        await self._change({"generation": max(generation, (await self.read()).generation)})

    async def num_running(self) -> int:
        """Jobs that somebody works on now; one whose worker has died counts until its lease ends."""
        now = time.time()
        # Driven by a narrow range of one indexed field: a running job is to be looked at when its lease ends.
        return await self._jobs.count({"wake_at": {"$gt": now, "$lte": now + self._lease_s}, "status": "running"})

    async def _change(self, changes: dict[str, float | int]) -> Standing:
        if not await self._server.update_one({"_id": BOARD_ID}, {"$set": changes}):
            try:
                await self._server.insert({"_id": BOARD_ID, "drains_until": 0.0, "generation": 0, **changes})
            except Conflict:  # another was first
                await self._server.update_one({"_id": BOARD_ID}, {"$set": changes})
        return await self.read()
