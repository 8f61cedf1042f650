"""What holds for a tenant: its own settings where it has some, the server's where not, a few seconds old at most."""

from dataclasses import replace

import pytest

from configs.settings import JobSettings, ModerationSettings, Settings, UploadSettings
from serving.mongo import Mongo
from serving.tenancy.policies import CACHE_S, ModerationPolicy, TenantPolicies, TenantPolicy
from serving.tenancy.tenants import Tenants

SETTINGS = Settings(
    jobs=JobSettings(keep_s=1_000.0, max_queued_per_tenant=20),
    uploads=UploadSettings(max_image_bytes=11, max_video_bytes=12, max_video_s=13.0, max_stored_bytes=14),
    moderation=ModerationSettings(action="blur", sexual_threshold=0.7, minors_threshold=0.4),
)
DEFAULT = TenantPolicy(
    keep_jobs_s=1_000.0,
    may_use_high_priority=False,
    max_queued=20,
    max_image_bytes=11,
    max_video_bytes=12,
    max_video_s=13.0,
    max_stored_bytes=14,
    moderation=ModerationPolicy("blur", 0.7, 0.4),
)


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
    assert await policies.of("alice") == replace(DEFAULT, may_use_high_priority=True, max_queued=3)


async def test_each_setting_can_be_its_own(tenants: Tenants, policies: TenantPolicies) -> None:
    await tenants.create("alice", name="Alice")
    await tenants.change(
        "alice",
        keep_jobs_s=2.0,
        may_use_high_priority=True,
        max_queued=1,
        max_image_bytes=1,
        max_video_bytes=2,
        max_video_s=3.0,
        max_stored_bytes=0,
        moderation_action="off",
        sexual_threshold=0.1,
        minors_threshold=0.2,
    )
    own = ModerationPolicy("off", 0.1, 0.2)
    assert await policies.of("alice") == TenantPolicy(2.0, True, 1, 1, 2, 3.0, 0, own)


def test_leniency_moves_the_threshold_half_way_to_certainty_and_never_that_of_minors() -> None:
    policy = ModerationPolicy("block", sexual_threshold=0.8, minors_threshold=0.5)
    assert policy.flagged({"sexual": 0.8}) == ("sexual",)
    assert policy.flagged({"sexual": 0.79}) == ()
    assert policy.flagged({"sexual": 0.89}, is_lenient=True) == ()
    assert policy.flagged({"sexual": 0.9, "sexual/minors": 0.5}, is_lenient=True) == ("sexual", "sexual/minors")


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
