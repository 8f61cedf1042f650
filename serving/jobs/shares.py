"""What each tenant has used of the devices lately, over all Routers: seconds that are forgotten by half-lives.

The sum over Routers lives in MongoDB, one document a tenant. It is kept in units that grow as the past fades: a
second at time t weighs 2^((t - era) / half_life), so that adding is a plain increment and nothing has to be faded
by anybody. Every 64 half-lives a new era begins, or the weights would outgrow a float.
Loss of what a killed Router had not yet told (a second or two) makes turns a little less fair, and nothing else.
"""

import time
from collections.abc import Callable
from contextlib import suppress

from serving.errors import Conflict
from serving.mongo import Document, Mongo

Told = tuple[float, float]  # era (Unix seconds), weight
HALF_LIVES_PER_ERA = 64
MAX_TENANTS = 10_000  # looked at; beyond these, turns are fair within each Router only


class Shares:
    """Device seconds by tenant: those that are known of everywhere, and those of this process's running jobs."""

    def __init__(self, mongo: Mongo, *, half_life_s: float, clock: Callable[[], float] = time.time) -> None:
        self._shares = mongo.across_tenants("shares", "share_queue")
        self._half_life_s = half_life_s
        self._clock = clock
        self._told: dict[str, Told] = {}
        self._untold: dict[str, float] = {}  # ended here, not yet in the database
        self._running: dict[str, float] = {}  # expected of jobs that run here

    def used_s(self, tenant: str) -> float:
        era, weight = self._told.get(tenant, (0.0, 0.0))
        faded: float = weight * 2.0 ** ((era - self._clock()) / self._half_life_s)
        return faded + self._untold.get(tenant, 0.0) + self._running.get(tenant, 0.0)

    def begin(self, tenant: str, expected_s: float) -> None:
        """A job starts: what it is expected to take counts already, or one tenant could take every free place."""
        self._running[tenant] = self._running.get(tenant, 0.0) + expected_s

    def end(self, tenant: str, expected_s: float, used_s: float) -> None:
        left_s = self._running.pop(tenant, 0.0) - expected_s
        if left_s > 1e-9:  # what rounding leaves is nobody's
            self._running[tenant] = left_s
        self._untold[tenant] = self._untold.get(tenant, 0.0) + used_s

    async def exchange(self) -> None:
        """Tells what was used here and learns what was used elsewhere."""
        for tenant, seconds in list(self._untold.items()):
            told = await self._add(tenant, seconds)
            # In one step, so that no turn is taken while these seconds count nowhere, or twice.
            self._told[tenant] = told
            self._untold[tenant] -= seconds  # more may have come meanwhile
            if self._untold[tenant] <= 1e-9:
                del self._untold[tenant]
        found = await self._shares.find({"_id": {"$gt": ""}}, sort=[("_id", 1)], limit=MAX_TENANTS)
        self._told = {document["_id"]: _told(document) for document in found}

    async def _add(self, tenant: str, seconds: float) -> Told:
        now = self._clock()
        era_s = HALF_LIVES_PER_ERA * self._half_life_s
        era = now // era_s * era_s
        weight = seconds * 2.0 ** ((now - era) / self._half_life_s)
        while True:
            if added := await self._shares.find_one_and_update(
                {"_id": tenant, "era": era}, {"$inc": {"weight": weight}}
            ):
                return _told(added)
            last = await self._shares.find_one({"_id": tenant})
            if last is None:
                with suppress(Conflict):  # another Router was first
                    await self._shares.insert({"_id": tenant, "tenant": tenant, "era": era, "weight": weight})
                    return era, weight
            elif last["era"] != era:
                faded = last["weight"] * 2.0 ** ((last["era"] - era) / self._half_life_s)
                renewed = {"era": era, "weight": faded}
                # Whoever comes second finds the new era. Adding is left to the next round: it must not be done twice.
                await self._shares.update_one({"_id": tenant, "era": last["era"]}, {"$set": renewed})


def _told(document: Document) -> Told:
    return document["era"], document["weight"]
