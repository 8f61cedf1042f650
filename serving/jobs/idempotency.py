"""Idempotency keys: the same request sent twice makes one object. Knows no HTTP and no kind of object.

A key is reserved before its object is made, together with the id that the object will have. So of two requests that
come at once one reserves and the other learns the same id; and after a crash between the two writes the next request
makes the object under the id that waits for it. Making an object whose id exists is refused: that ends every race.
"""

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

from serving.errors import Conflict, Unavailable
from serving.mongo import Document, Mongo

# Taking over an old key, or one that is being deleted, is lost to somebody else at most once or twice.
MAX_TRIES = 5


class KeyReused(Conflict):
    """The same idempotency key came with another request."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__("This idempotency key was used for another request before.", param="Idempotency-Key")

    @property
    def headers(self) -> dict[str, str]:
        return {"X-Should-Retry": "false"}  # OpenAI's clients repeat a 409 by themselves


@dataclass(frozen=True, slots=True)
class Reservation:
    """The id that a key stands for. Whether its object exists is for its own store to say."""

    id: str
    is_new: bool  # reserved by this very call


class IdempotencyKeys:
    """The idempotency_keys collection. A key belongs to a tenant, and is forgotten after `keep_s`."""

    def __init__(self, mongo: Mongo, *, keep_s: float) -> None:
        self._mongo = mongo
        self._keep_s = keep_s

    async def find(self, tenant: str, key: str, *, fingerprint: str) -> Reservation | None:
        """What the key stands for, or None while it is free. Raises KeyReused for another fingerprint."""
        document = await self._mongo.of_tenant("idempotency_keys", tenant).find_one({"_id": _id_of(tenant, key)})
        if document is None or document["created_at"] <= self._oldest():
            return None
        return _held(document, fingerprint)

    async def reserve(self, tenant: str, key: str, *, fingerprint: str, new_id: str) -> Reservation:
        """`new_id` for a free key, else the id that it stands for. Raises KeyReused for another fingerprint.

        Call it when nothing but a store can refuse the request any more: from here on the key belongs to it.
        """
        keys = self._mongo.of_tenant("idempotency_keys", tenant)
        key_id = _id_of(tenant, key)
        ours: Document = {"object_id": new_id, "fingerprint": fingerprint}
        for _ in range(MAX_TRIES):
            try:
                await keys.insert({"_id": key_id, **ours, "created_at": time.time()})
            except Conflict:
                held = await keys.find_one({"_id": key_id})
            else:
                return Reservation(new_id, is_new=True)
            if held is None:  # it was old, and deleted just now
                continue
            if held["created_at"] > self._oldest():
                return _held(held, fingerprint)
            seen = {"_id": key_id, "created_at": held["created_at"], "object_id": held["object_id"]}
            if await keys.update_one(seen, {"$set": {**ours, "created_at": time.time()}}):
                return Reservation(new_id, is_new=True)
        raise Unavailable("The idempotency key could not be reserved.", retry_after_s=1)

    async def delete_old(self, *, limit: int) -> int:
        """Forgets up to `limit` keys whose time is over, of all tenants; how many there were."""
        keys = self._mongo.across_tenants("idempotency_keys", "operate_server")
        old = {"created_at": {"$lte": self._oldest()}}
        found = await keys.find(old, sort=[("created_at", 1)], limit=limit, fields=("created_at",))
        for document in found:
            # Of this very age: a key that was taken over meanwhile stays.
            await keys.delete_one({"_id": document["_id"], "created_at": document["created_at"]})
        return len(found)

    def _oldest(self) -> float:
        return time.time() - self._keep_s


def fingerprint_of(route: str, wish: object) -> str:
    """A hash of what is wanted and where: equal for requests that ask for the same in other words or another order.

    `wish` is a dataclass or plain data; bytes in it, such as pictures, count by their own hash.
    """
    if dataclasses.is_dataclass(wish) and not isinstance(wish, type):
        wish = dataclasses.asdict(wish, dict_factory=_said)
    text = json.dumps([route, wish], sort_keys=True, separators=(",", ":"), default=_digest)
    return hashlib.sha256(text.encode()).hexdigest()


def _said(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """Without what was left open: a later version may know more such fields, and the request is still the same."""
    return {name: value for name, value in items if value is not None}


def _digest(value: object) -> str:
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    raise TypeError(f"{type(value).__name__} has no place in a fingerprint")


def _held(document: Document, fingerprint: str) -> Reservation:
    if document["fingerprint"] != fingerprint:
        raise KeyReused
    return Reservation(document["object_id"], is_new=False)


def _id_of(tenant: str, key: str) -> str:
    """The same for the same key, so that a second insert fails; a hash, for a key may hold what no id should."""
    return hashlib.sha256(f"{tenant}/{key}".encode()).hexdigest()
