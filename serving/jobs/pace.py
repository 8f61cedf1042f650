"""How fast jobs go lately: measured by each Router, told to whoever estimates when a job will be done."""

import time

from serving.errors import Conflict
from serving.jobs.job import Job
from serving.mongo import Document, Mongo

OLD_S = 86_400.0
SMOOTHING = 0.1  # weight of the newest job in the running means
# Before anything was measured: a modern GPU at a small model. Wrong for others, and only until the first job ends.
FIRST_GUESS_S = 5e-8  # seconds of the device per unit of work, which is a pixel times a step


class Pace:
    """Running means over the jobs of one model that this Router has driven to their end."""

    def __init__(self, mongo: Mongo, model_id: str, *, owner: str) -> None:
        self._paces = mongo.across_tenants("paces", "share_queue")
        self._id = f"{owner}/{model_id}"
        self.model_id = model_id
        self._unit_s = FIRST_GUESS_S
        self._mean_s: float | None = None
        self._num_beside = 1.0
        self._is_told = True

    def expected_s(self, job: Job) -> float:
        """Seconds of the device that a job will take, by what others of its model took."""
        return self._unit_s * job.request.work

    def observe(self, job: Job, *, run_s: float, device_s: float, num_beside: int) -> None:
        """A job has ended well: it took `run_s` by the clock, with `num_beside` jobs driven at its end, itself too."""
        if device_s > 0:
            self._unit_s = _mixed(self._unit_s if self._mean_s is not None else None, device_s / job.request.work)
        self._num_beside = _mixed(self._num_beside if self._mean_s is not None else None, float(num_beside))
        self._mean_s = _mixed(self._mean_s, run_s)
        self._is_told = False

    async def tell(self) -> None:
        """Jobs per second by Little's law: as many as are driven at a time, over how long each is driven."""
        if self._is_told or self._mean_s is None:
            return
        self._is_told = True
        pace: Document = {
            "model": self.model_id,
            "jobs_per_s": self._num_beside / max(self._mean_s, 1e-3),
            "mean_s": self._mean_s,
            "at": time.time(),
        }
        if not await self._paces.update_one({"_id": self._id}, {"$set": pace}):
            try:
                await self._paces.insert({"_id": self._id, **pace})
            except Conflict:
                return  # this very Router told it a moment ago, and its answer was late


class OldPaces:
    """What Routers told that are no more: every start of one brings a name of its own."""

    def __init__(self, mongo: Mongo) -> None:
        self._paces = mongo.across_tenants("paces", "share_queue")

    async def delete_old(self, *, limit: int) -> int:
        """Forgets up to `limit` of them; how many there were."""
        old = await self._paces.find(
            {"at": {"$lt": time.time() - OLD_S}}, sort=[("at", 1)], limit=limit, fields=("at",)
        )
        for document in old:
            await self._paces.delete_one({"_id": document["_id"]})
        return len(old)


def _mixed(mean: float | None, newest: float) -> float:
    return newest if mean is None else mean + SMOOTHING * (newest - mean)
