"""What holds for a tenant: its own settings where it has some, the server's where not, a few seconds old at most."""

import pytest

from configs.settings import JobSettings
from serving.mongo import Mongo
from serving.tenancy.policies import CACHE_S, TenantPolicies, TenantPolicy
from serving.tenancy.tenants import Tenants

SETTINGS = JobSettings(keep_s=1_000.0, max_queued_per_tenant=20)
DEFAULT = TenantPolicy(keep_jobs_s=1_000.0, may_use_high_priority=False, max_queued=20)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tenants(mongo: Mongo) -> Tenants:
    return Tenants(mongo)


@pytest.fixture
def policies(tenants: Tenants, clock: Clock) -> TenantPolicies:
    return TenantPolicies(tenants, SETTINGS, clock=clock)


async def test_without_settings_of_its_own_a_tenant_has_the_servers(tenants: Tenants, policies: TenantPolicies) -> None:
    await tenants.create("alice", name="Alice")
    assert await policies.of("alice") == DEFAULT
    assert await policies.of("nobody") == DEFAULT


async def test_its_own_settings_go_first(tenants: Tenants, policies: TenantPolicies) -> None:
    await tenants.create("alice", name="Alice")
    await tenants.change("alice", may_use_high_priority=True, max_queued=3)
    assert await policies.of("alice") == TenantPolicy(1_000.0, may_use_high_priority=True, max_queued=3)


async def test_a_change_is_seen_once_the_cache_is_too_old(
    tenants: Tenants, policies: TenantPolicies, clock: Clock
) -> None:
    await tenants.create("alice", name="Alice")
    await policies.of("alice")
    await tenants.change("alice", keep_jobs_s=5.0)
    clock.now_s = CACHE_S * 0.9
    assert await policies.of("alice") == DEFAULT
    clock.now_s = CACHE_S
    assert (await policies.of("alice")).keep_jobs_s == 5.0
    await tenants.change("alice", keep_jobs_s=None)
    clock.now_s = 2 * CACHE_S
    assert await policies.of("alice") == DEFAULT
