"""How many bytes a tenant's uploads take, exact through crashes. Knows no objects, only a name for each.

An object that comes or goes has an entry beside the sum, so each step can be told to have been done, and may be done
again. What is coming counts already, and what is going counts still: the limit holds at every moment.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from serving.errors import Conflict, Unavailable
from serving.mongo import Collection, Document, Mongo
from serving.uploads.inspecting import UploadRefused

MAX_TRIES = 100  # each is lost only to another change of the same tenant's account
MAX_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class Going:
    """Somebody takes an object away that has come, or tries to be the one who does."""

    nonce: str
    num_bytes: int


@dataclass(slots=True)
class Account:
    """One tenant's, as read; a step changes it and it is written back if nobody else was quicker."""

    settled_bytes: int = 0  # of all that have come, those that are going included
    coming: dict[str, int] = field(default_factory=dict)  # object → bytes, not among the settled
    going: dict[str, Going] = field(default_factory=dict)  # by who takes it away; among the settled
    version: int = 0

    @property
    def total_bytes(self) -> int:
        return self.settled_bytes + sum(self.coming.values())


class Accounts:
    """The upload_accounts collection: a small document for each tenant."""

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo

    async def total_bytes(self, tenant: str) -> int:
        return (await self._read(tenant)).total_bytes

    async def begin(self, tenant: str, nonce: str, num_bytes: int, *, limit_bytes: int) -> None:
        """An object comes. Raises UploadRefused when it finds no room."""

        def step(account: Account) -> None:
            if nonce not in account.coming and account.total_bytes + num_bytes > limit_bytes:
                raise UploadRefused("storage_full", no_room(account.total_bytes, num_bytes, limit_bytes))
            account.coming[nonce] = num_bytes

        await self._change(tenant, step)

    async def settle(self, tenant: str, nonce: str) -> None:
        """It has come."""

        def step(account: Account) -> None:
            account.settled_bytes += account.coming.pop(nonce, 0)

        await self._change(tenant, step)

    async def intend(self, tenant: str, nonce: str, taker: str, num_bytes: int) -> None:
        """`taker`, a name used once, will try to take it away. To be said before it is tried."""
        await self._change(tenant, lambda account: account.going.setdefault(taker, Going(nonce, num_bytes)))

    async def leave(self, tenant: str, taker: str) -> None:
        """It was not this one who took it away."""
        await self._change(tenant, lambda account: account.going.pop(taker, None))

    async def end(self, tenant: str, nonce: str, taker: str) -> None:
        """It is gone, and `taker` was the one; said by whoever saw to it, be they several."""

        def step(account: Account) -> None:
            going = account.going.pop(taker, None)
            # Still coming: whoever brought it died before it was settled.
            if going is not None and account.coming.pop(nonce, None) is None:
                account.settled_bytes -= going.num_bytes

        await self._change(tenant, step)

    async def forget(self, tenant: str, nonce: str) -> None:
        """It is not there: what was begun with it and never ended leaves no trace."""

        def step(account: Account) -> None:
            account.coming.pop(nonce, None)
            account.going = {taker: going for taker, going in account.going.items() if going.nonce != nonce}

        await self._change(tenant, step)

    async def _change(self, tenant: str, step: Callable[[Account], object]) -> None:
        for _ in range(MAX_TRIES):
            account = await self._read(tenant)
            before = _fields(account)
            step(account)
            if _fields(account) == before or await self._write(tenant, account):
                return
            await asyncio.sleep(random.uniform(0, MAX_PAUSE_S))
        raise Unavailable("The account of uploads is too busy.", retry_after_s=1, code="database_unavailable")

    async def _read(self, tenant: str) -> Account:
        document = await self._of(tenant).find_one({"_id": tenant})
        if document is None:
            return Account()
        return Account(
            int(document["settled_bytes"]),
            {name: int(num_bytes) for name, num_bytes in document["coming"]},
            {taker: Going(nonce, int(num_bytes)) for taker, nonce, num_bytes in document["going"]},
            int(document["version"]),
        )

    async def _write(self, tenant: str, account: Account) -> bool:
        fields = {**_fields(account), "version": account.version + 1}
        if account.version:
            seen: Document = {"_id": tenant, "version": account.version}
            return await self._of(tenant).update_one(seen, {"$set": fields})
        try:
            await self._of(tenant).insert({"_id": tenant, "tenant": tenant, **fields})
        except Conflict:
            return False
        return True

    def _of(self, tenant: str) -> Collection:
        return self._mongo.of_tenant("upload_accounts", tenant)


def no_room(taken_bytes: int, num_bytes: int, limit_bytes: int) -> str:
    """What a client is told."""
    return (
        f"Uploads may take {limit_bytes} bytes in all; {taken_bytes} are taken, and {num_bytes} more do not fit. "
        "Delete some."
    )


def _fields(account: Account) -> Document:
    return {
        "settled_bytes": account.settled_bytes,
        "coming": [list(pair) for pair in account.coming.items()],
        "going": [[taker, going.nonce, going.num_bytes] for taker, going in account.going.items()],
    }
