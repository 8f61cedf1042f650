"""TenantPolicies: what holds for a tenant, its own settings or the server's, looked up through a short cache."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from configs.settings import Action, Settings
from serving.tenancy.tenants import Tenant, Tenants

T = TypeVar("T")

# A change reaches every process within this time; it saves a query per request.
CACHE_S = 5.0
CACHE_MAX_TENANTS = 10_000


@dataclass(frozen=True, slots=True)
class ModerationPolicy:
    """From which score on something is flagged, and what is done then."""

    action: Action
    sexual_threshold: float
    minors_threshold: float

    def flagged(self, scores: Mapping[str, float], *, is_lenient: bool = False) -> tuple[str, ...]:
        """The categories that reach their threshold; leniency moves that of `sexual` half way to certainty."""
        sexual = (1 + self.sexual_threshold) / 2 if is_lenient else self.sexual_threshold
        thresholds = {"sexual": sexual, "sexual/minors": self.minors_threshold}
        return tuple(name for name, threshold in thresholds.items() if scores.get(name, 0.0) >= threshold)


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """What holds for one tenant: its own settings, and the server's where it has none."""

    keep_jobs_s: float  # ended jobs and what they stored are deleted after this
    may_use_high_priority: bool  # admins' keys may in any case
    max_queued: int  # jobs that may wait at once
    max_image_bytes: int  # of one upload
    max_video_bytes: int
    max_video_s: float
    max_stored_bytes: int  # all its uploads together
    moderation: ModerationPolicy


PolicyOf = Callable[[str], Awaitable[ModerationPolicy]]  # by tenant


class TenantPolicies:
    """The policies of all tenants, as they were at most CACHE_S ago."""

    def __init__(self, tenants: Tenants, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
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
        policy = policy_of(await self._tenants.find(tenant_id), self._settings)
        if len(self._cache) >= CACHE_MAX_TENANTS:
            self._cache.clear()
        self._cache[tenant_id] = now, policy
        return policy


def policy_of(tenant: Tenant | None, settings: Settings) -> TenantPolicy:
    """What holds for this tenant; for none, the server's defaults."""
    jobs, uploads, moderation = settings.jobs, settings.uploads, settings.moderation
    own = tenant or Tenant("", "", 0)
    return TenantPolicy(
        keep_jobs_s=_first(own.keep_jobs_s, jobs.keep_s),
        may_use_high_priority=bool(own.may_use_high_priority),
        max_queued=_first(own.max_queued, jobs.max_queued_per_tenant),
        max_image_bytes=_first(own.max_image_bytes, uploads.max_image_bytes),
        max_video_bytes=_first(own.max_video_bytes, uploads.max_video_bytes),
        max_video_s=_first(own.max_video_s, uploads.max_video_s),
        max_stored_bytes=_first(own.max_stored_bytes, uploads.max_stored_bytes),
        moderation=ModerationPolicy(
            action=_first(own.moderation_action, moderation.action),
            sexual_threshold=_first(own.sexual_threshold, moderation.sexual_threshold),
            minors_threshold=_first(own.minors_threshold, moderation.minors_threshold),
        ),
    )


def _first(own: T | None, default: T) -> T:
    return default if own is None else own
