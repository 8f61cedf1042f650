"""Tenants of this server: who may have keys and data. Knows no keys."""

import time
from dataclasses import dataclass

from serving.errors import Conflict
from serving.mongo import Document, Mongo


@dataclass(frozen=True, slots=True)
class Tenant:
    id: str
    name: str
    created_at: int


class Tenants:
    """The tenants collection: the operator's own, so it is not inside any tenant."""

    def __init__(self, mongo: Mongo) -> None:
        self._tenants = mongo.across_tenants("tenants", "operate_server")

    async def create(self, tenant_id: str, *, name: str) -> Tenant:
        """Raises Conflict when the id is taken."""
        document: Document = {"_id": tenant_id, "name": name or tenant_id, "created_at": time.time()}
        await self._tenants.insert(document)
        return _tenant(document)

    async def ensure(self, tenant_id: str) -> None:
        if await self.find(tenant_id) is None:
            try:
                await self.create(tenant_id, name=tenant_id)
            except Conflict:
                return  # another process made it in between, which is all we wanted

    async def find(self, tenant_id: str) -> Tenant | None:
        document = await self._tenants.find_one({"_id": tenant_id})
        return None if document is None else _tenant(document)

    async def list(self) -> list[Tenant]:
        return [_tenant(d) for d in await self._tenants.find({}, sort=[("created_at", 1)], limit=1000)]


def _tenant(document: Document) -> Tenant:
    return Tenant(id=document["_id"], name=document["name"], created_at=int(document["created_at"]))
