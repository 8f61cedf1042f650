"""/v1/admin: keys, tenants, and the order to stop. A tenant's admin manages its keys; the operator's all the rest."""

import math
from dataclasses import asdict
from typing import cast

from fastapi import APIRouter

from serving.api.deps import OPERATOR_TENANT, CurrentAdmin, Operator, Services, ServicesDep
from serving.api.schemas import (
    Deleted,
    DrainBody,
    DrainState,
    KeyBody,
    KeyList,
    NewKeyBody,
    NewTenantBody,
    TenantBody,
    TenantChangesBody,
    TenantList,
)
from serving.draining import Standing
from serving.errors import Forbidden, NotFound
from serving.jobs.wish import check_text
from serving.tenancy.auth import ApiKey, Caller
from serving.tenancy.tenants import Tenant, TenantChanges

MAX_NAME_CHARS = 200  # the schemas are stricter where they say so

router = APIRouter(prefix="/v1/admin", tags=["admin"])


@router.get("/keys")
async def list_keys(services: ServicesDep, caller: CurrentAdmin, tenant: str | None = None) -> KeyList:
    keys = await services.keys.list(_tenant_of(caller, tenant))
    return KeyList(data=[_key_body(key) for key in keys])


@router.post("/keys", status_code=201)
async def create_key(body: NewKeyBody, services: ServicesDep, caller: CurrentAdmin) -> KeyBody:
    """The only time the secret is shown."""
    tenant = _tenant_of(caller, body.tenant)
    check_text("name", body.name, max_chars=MAX_NAME_CHARS)
    if await services.tenants.find(tenant) is None:
        raise NotFound(f"No tenant {tenant!r}.", param="tenant", code="tenant_not_found")
    key, secret = await services.keys.create(tenant, name=body.name, role=body.role)
    return _key_body(key).model_copy(update={"key": secret})


@router.delete("/keys/{key_id}")
async def revoke_key(services: ServicesDep, caller: CurrentAdmin, key_id: str, tenant: str | None = None) -> Deleted:
    await services.keys.revoke(_tenant_of(caller, tenant), key_id)
    return Deleted(id=key_id)


@router.get("/tenants")
async def list_tenants(services: ServicesDep, _caller: Operator) -> TenantList:
    return TenantList(data=[_tenant_body(tenant) for tenant in await services.tenants.list()])


@router.post("/tenants", status_code=201)
async def create_tenant(body: NewTenantBody, services: ServicesDep, _caller: Operator) -> TenantBody:
    check_text("name", body.name or "", max_chars=MAX_NAME_CHARS)
    return _tenant_body(await services.tenants.create(body.id, name=body.name or body.id))


@router.patch("/tenants/{tenant_id}")
async def change_tenant(
    tenant_id: str, body: TenantChangesBody, services: ServicesDep, _caller: Operator
) -> TenantBody:
    changes = cast(TenantChanges, body.model_dump(exclude_unset=True))
    return _tenant_body(await services.tenants.change(tenant_id, **changes))


@router.post("/drain")
async def begin_drain(body: DrainBody, services: ServicesDep, _caller: Operator) -> DrainState:
    """What `darkroom serve` says before it stops: nothing new is accepted or begun until it is deployed again."""
    return await _drain_state(services, await services.board.begin_drain(within_s=body.within_s))


@router.get("/drain")
async def read_drain(services: ServicesDep, _caller: Operator) -> DrainState:
    return await _drain_state(services, await services.board.read())


async def _drain_state(services: Services, standing: Standing) -> DrainState:
    return DrainState(
        is_draining=standing.is_draining,
        until=math.ceil(standing.drains_until) if standing.is_draining else None,
        running=await services.board.num_running(),
    )


def _tenant_of(caller: Caller, asked: str | None) -> str:
    if asked is None or asked == caller.tenant:
        return caller.tenant
    if caller.tenant != OPERATOR_TENANT:
        raise Forbidden(f"Only admins of the tenant {OPERATOR_TENANT!r} manage other tenants' keys.", param="tenant")
    return asked


def _key_body(key: ApiKey) -> KeyBody:
    return KeyBody(
        id=key.id,
        name=key.name,
        role=key.role,
        tenant=key.tenant,
        last_four=key.last_four,
        created_at=key.created_at,
    )


def _tenant_body(tenant: Tenant) -> TenantBody:
    return TenantBody(**asdict(tenant))
