"""Chores: of all processes that could do some work, one does it at a time. Knows nothing of the work.

The work must bear being done twice: a process that was frozen may go on when its turn is over.
"""

import time

from serving.errors import Conflict
from serving.mongo import Mongo


class Chores:
    """The chores collection: one small document for each chore, with whose turn it is and until when."""

    def __init__(self, mongo: Mongo, *, owner: str) -> None:
        self._chores = mongo.across_tenants("chores", "operate_server")
        self._owner = owner

    async def take(self, chore: str, *, for_s: float) -> bool:
        """True: it is ours for so long. False: somebody else has it, or has done it a short while ago."""
        now = time.time()
        turn = {"owner": self._owner, "until": now + for_s}
        if await self._chores.update_one({"_id": chore, "until": {"$lte": now}}, {"$set": turn}):
            return True
        if await self._chores.find_one({"_id": chore}) is not None:
            return False
        try:
            await self._chores.insert({"_id": chore, **turn})
        except Conflict:
            return False
        return True

    async def leave(self, chore: str, *, for_s: float = 0.0) -> None:
        """Ours no longer: anybody may take it, after `for_s`."""
        mine = {"_id": chore, "owner": self._owner}
        await self._chores.update_one(mine, {"$set": {"until": time.time() + for_s}})
