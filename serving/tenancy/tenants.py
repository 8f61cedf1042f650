"""Tenants of this server: who may have keys and data, and the settings of each. Knows no keys."""

import time
from dataclasses import dataclass
from typing import TypedDict, Unpack

from configs.settings import Action
from serving.errors import Conflict, NotFound
from serving.mongo import Document, Mongo


class TenantChanges(TypedDict, total=False):
    """Settings of a tenant; None is the server's default."""

    keep_jobs_s: float | None
    may_use_high_priority: bool | None
    max_queued: int | None
    max_image_bytes: int | None
    max_video_bytes: int | None
    max_video_s: float | None
    max_stored_bytes: int | None
    moderation_action: Action | None
    sexual_threshold: float | None
    minors_threshold: float | None


@dataclass(frozen=True, slots=True)
class Tenant:
    id: str
    name: str
    created_at: int
    keep_jobs_s: float | None = None
    may_use_high_priority: bool | None = None
    max_queued: int | None = None
    max_image_bytes: int | None = None
    max_video_bytes: int | None = None
    max_video_s: float | None = None
    max_stored_bytes: int | None = None
    moderation_action: Action | None = None
    sexual_threshold: float | None = None
    minors_threshold: float | None = None


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

    async def change(self, tenant_id: str, **changes: Unpack[TenantChanges]) -> Tenant:
        """The tenant with these settings, the others as they were. Raises NotFound."""
        if changes:
            document = await self._tenants.find_one_and_update({"_id": tenant_id}, {"$set": dict(changes)})
        else:
            document = await self._tenants.find_one({"_id": tenant_id})
        if document is None:
            raise NotFound(f"No tenant {tenant_id!r}.", param="id", code="tenant_not_found")
        return _tenant(document)

    async def list(self) -> list[Tenant]:
        return [_tenant(d) for d in await self._tenants.find({}, sort=[("created_at", 1)], limit=1000)]


def _tenant(document: Document) -> Tenant:
    high = document.get("may_use_high_priority")
    own = {name: document.get(name) for name in TenantChanges.__annotations__}
    own["may_use_high_priority"] = None if high is None else bool(high)
    return Tenant(id=document["_id"], name=document["name"], created_at=int(document["created_at"]), **own)
