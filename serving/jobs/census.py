"""Who waits where: the lines of the queue, their heads and lengths, and what comes before a job. Reads only.

Each line is a range of one indexed field (job.place_in_line), so a look costs one short query per line, however long
the lines are.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serving.jobs.job import Job, Line, place_in_line
from serving.mongo import Mongo, past, under

MAX_LINES = 1_000  # looked at for one answer
LEAST_FRESH_S = 1.0
# A look that takes long is repeated more rarely: at most this share of the time goes into looking.
LOOKING_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Queue:
    """What is known of a line: who is first, and how many there are."""

    head_id: str
    length: int


class Census:
    """The waiting jobs of all tenants, by line."""

    def __init__(self, mongo: Mongo) -> None:
        self._jobs = mongo.across_tenants("jobs", "count_queue")
        self._queues: dict[str, dict[Line, Queue]] = {}
        self._fresh_until: dict[str, float] = {}
        self._looking: dict[str, asyncio.Lock] = {}

    async def heads(self, model_ids: Sequence[str], *, limit: int = MAX_LINES) -> dict[Line, str]:
        """Each line of these models in which jobs wait, and the id of its first job; by model and priority."""
        found: dict[Line, str] = {}
        for model_id in model_ids:
            place = under(f"{model_id}/")
            while len(found) < limit:
                first = await self._jobs.find({"line": place}, sort=[("line", 1)], limit=1, fields=("line",))
                if not first:
                    break
                line = Line.of_place(first[0]["line"])
                found[line] = first[0]["_id"]
                place["$gte"] = past(line.prefix)
        return found

    async def position(self, job: Job) -> int:
        """How many waiting jobs of its model go first, if shares are equal from here on; 0 is next.

        All of higher priorities, its own line up to itself, and of every other line of its priority as many as it
        waits for in its own, for lines of one priority take turns; one more of those whose turn comes before, because
        somebody has waited there for longer.
        """
        mine = Line.of(job)
        ahead = await self._jobs.count({"line": {"$gte": mine.prefix, "$lt": place_in_line(job)}})
        queues = await self._queues_of(job.model_id)
        my_head_id = job.id if ahead == 0 or mine not in queues else queues[mine].head_id
        position = ahead
        for line, queue in queues.items():
            if line.priority_rank < mine.priority_rank:
                position += queue.length
            elif line.priority_rank == mine.priority_rank and line != mine:
                position += min(queue.length, ahead + (queue.head_id < my_head_id))
        return position

    async def _queues_of(self, model_id: str) -> Mapping[Line, Queue]:
        """The lines of a model, as of a moment ago."""
        looking = self._looking.setdefault(model_id, asyncio.Lock())
        # Of many who ask at once, one looks; the rest take what there is, and wait only where that is nothing yet.
        if model_id not in self._queues or not (looking.locked() or self._is_fresh(model_id)):
            async with looking:
                if not self._is_fresh(model_id):
                    await self._look(model_id)
        return self._queues[model_id]

    def _is_fresh(self, model_id: str) -> bool:
        return time.monotonic() < self._fresh_until.get(model_id, 0.0)

    async def _look(self, model_id: str) -> None:
        began = time.monotonic()
        lines = await self.heads([model_id])
        self._queues[model_id] = {
            line: Queue(head_id, await self._jobs.count({"line": under(line.prefix)}))
            for line, head_id in lines.items()
        }
        ended = time.monotonic()
        self._fresh_until[model_id] = ended + max(LEAST_FRESH_S, (ended - began) / LOOKING_SHARE)
