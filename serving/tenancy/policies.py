"""TenantPolicies: what a tenant may do and how long its jobs are kept, looked up through a short cache."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from configs.settings import JobSettings
from serving.tenancy.tenants import Tenants

# A change reaches every process within this time; it saves a query per request.
CACHE_S = 5.0
CACHE_MAX_TENANTS = 10_000


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """What holds for one tenant: its own settings, and the server's where it has none."""

    keep_jobs_s: float  # ended jobs and what they stored are deleted after this
    may_use_high_priority: bool  # admins' keys may in any case
    max_queued: int  # jobs that may wait at once


class TenantPolicies:
    """The policies of all tenants, as they were at most CACHE_S ago."""

    def __init__(self, tenants: Tenants, settings: JobSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._tenants = tenants
        self._settings = settings
        self._clock = clock
        self._cache: dict[str, tuple[float, TenantPolicy]] = {}

    async def of(self, tenant_id: str) -> TenantPolicy:
        """The server's defaults for a tenant that does not exist (any more)."""
        now = self._clock()
        cached = self._cache.get(tenant_id)
        if cached is not None and now - cached[0] < CACHE_S:
            return cached[1]
        policy = await self._read(tenant_id)
        if len(self._cache) >= CACHE_MAX_TENANTS:
            self._cache.clear()
        self._cache[tenant_id] = now, policy
        return policy

    async def _read(self, tenant_id: str) -> TenantPolicy:
        tenant, settings = await self._tenants.find(tenant_id), self._settings
        if tenant is None:
            return TenantPolicy(settings.keep_s, may_use_high_priority=False, max_queued=settings.max_queued_per_tenant)
        return TenantPolicy(
            keep_jobs_s=settings.keep_s if tenant.keep_jobs_s is None else tenant.keep_jobs_s,
            may_use_high_priority=bool(tenant.may_use_high_priority),
            max_queued=settings.max_queued_per_tenant if tenant.max_queued is None else tenant.max_queued,
        )
