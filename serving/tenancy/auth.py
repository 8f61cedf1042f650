"""API keys: made once, stored as hashes, recognised on every request. Knows no HTTP."""

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from serving.errors import NotAuthenticated, NotFound
from serving.mongo import Document, Mongo
from serving.telemetry import AUTH_FAILURES

Role = Literal["admin", "member"]
KEY_PREFIX = "dk-"
BOOTSTRAP_KEY_NAME = "first admin key"
# A revoked key may still work this long on an Api process that has just seen it; it saves a query per request.
CACHE_S = 5.0
CACHE_MAX_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking: the tenant that all their data belongs to, and what they may do."""

    tenant: str
    role: Role
    key_id: str

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as stored: the secret itself is never kept."""

    id: str
    tenant: str
    name: str
    role: Role
    last_four: str
    created_at: int

    @classmethod
    def from_document(cls, document: Document) -> "ApiKey":
        return cls(
            id=document["key_id"],
            tenant=document["tenant"],
            name=document["name"],
            role=document["role"],
            last_four=document["last_four"],
            created_at=int(document["created_at"]),
        )


def new_key() -> str:
    """A fresh secret with 256 bits of randomness."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """SHA-256, hex. A plain hash is right here: keys are 256 random bits, there is nothing to guess."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


class KeyRing:
    """The api_keys collection. Looking a key up must cross tenants; all else stays inside one."""

    def __init__(self, mongo: Mongo, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._mongo = mongo
        self._clock = clock
        self._cache: dict[str, tuple[float, Caller]] = {}

    async def authenticate(self, key: str) -> Caller:
        """Raises NotAuthenticated for a key that does not exist (any more)."""
        key_hash = hash_key(key)
        now = self._clock()
        cached = self._cache.get(key_hash)
        if cached is not None and cached[0] > now:
            return cached[1]
        document = await self._mongo.across_tenants("api_keys", "authenticate").find_one({"_id": key_hash})
        if document is None:
            self._cache.pop(key_hash, None)
            AUTH_FAILURES.inc()
            raise NotAuthenticated(
                "Incorrect API key provided. Keys look like dk-… and go into the header 'Authorization: Bearer <key>'."
            )
        caller = Caller(tenant=document["tenant"], role=document["role"], key_id=document["key_id"])
        if len(self._cache) >= CACHE_MAX_KEYS:
            self._cache.clear()
        self._cache[key_hash] = (now + CACHE_S, caller)
        return caller

    async def create(self, tenant: str, *, name: str, role: Role) -> tuple[ApiKey, str]:
        """A new key and its secret, which is shown this once."""
        key = new_key()
        return await self._store(tenant, key, name=name, role=role), key

    async def list(self, tenant: str) -> list[ApiKey]:
        documents = await self._mongo.of_tenant("api_keys", tenant).find({}, sort=[("created_at", -1)], limit=1000)
        return [ApiKey.from_document(document) for document in documents]

    async def revoke(self, tenant: str, key_id: str) -> None:
        if not await self._mongo.of_tenant("api_keys", tenant).delete_one({"key_id": key_id}):
            raise NotFound(f"No API key {key_id!r}.", param="id", code="key_not_found")
        self._cache = {h: entry for h, entry in self._cache.items() if entry[1].key_id != key_id}

    async def ensure_bootstrap(self, tenant: str, key: str) -> None:
        """Makes `key` the tenant's first admin key; an earlier first admin key stops working."""
        keys = self._mongo.of_tenant("api_keys", tenant)
        wanted = hash_key(key)
        for document in await keys.find({"name": BOOTSTRAP_KEY_NAME}, sort=[("created_at", 1)], limit=100):
            if document["_id"] != wanted:
                await keys.delete_one({"_id": document["_id"]})
        if await keys.find_one({"_id": wanted}) is None:
            await self._store(tenant, key, name=BOOTSTRAP_KEY_NAME, role="admin")

    async def _store(self, tenant: str, key: str, *, name: str, role: Role) -> ApiKey:
        document: Document = {
            "_id": hash_key(key),
            "key_id": "key_" + secrets.token_hex(8),
            "tenant": tenant,
            "name": name,
            "role": role,
            "last_four": key[-4:],
            "created_at": time.time(),
        }
        await self._mongo.of_tenant("api_keys", tenant).insert(document)
        return ApiKey.from_document(document)
