"""Whether a wish may become a job: all that can refuse it, before anything is stored."""

from collections.abc import Mapping

from configs.settings import Settings
from models.spec import ModelSpec
from pipelines.request import GenerationRequest
from serving.adapters.store import AdapterStore
from serving.errors import BadInput, Forbidden
from serving.jobs.queue_room import QueueRoom
from serving.jobs.wish import MAX_LORAS, ImageWish, resolve_image
from serving.outbound import Outbound
from serving.tenancy.auth import Caller
from serving.tenancy.policies import TenantPolicies
from serving.webhooks.endpoints import check_webhook_url


class Admission:
    """Resolves wishes and finds room for them. Stores nothing."""

    def __init__(
        self,
        adapters: AdapterStore,
        room: QueueRoom,
        policies: TenantPolicies,
        outbound: Outbound,
        catalog: Mapping[str, ModelSpec],
        settings: Settings,
    ) -> None:
        self._adapters = adapters
        self._room = room
        self._policies = policies
        self._outbound = outbound
        self._catalog = catalog
        self._settings = settings

    async def admit(self, caller: Caller, wish: ImageWish) -> GenerationRequest:
        """What is to be made, all choices filled in. BadInput, NotFound (model), Forbidden or TooManyRequests."""
        request = resolve_image(
            wish,
            self._catalog,
            default_model=self._settings.default_image_model,
            max_prompt_chars=self._settings.api.max_prompt_chars,
            adapters=await self._adapters.find_all(caller.tenant, [lora.name for lora in wish.loras[:MAX_LORAS]]),
        )
        longest_s = self._settings.jobs.max_age_s
        if wish.expires_in_s is not None and not 1 <= wish.expires_in_s <= longest_s:
            raise BadInput(f"expires_in_s must be a number from 1 to {longest_s:g}.", param="expires_in_s")
        if wish.priority == "high" and not await self._may_use_high_priority(caller):
            raise Forbidden("priority 'high' needs a key with role admin, or a tenant that may.", param="priority")
        if wish.webhook_url is not None:
            await check_webhook_url(self._outbound, wish.webhook_url)
        await self.make_room(caller.tenant)  # last, for it counts the job as accepted
        return request

    async def make_room(self, tenant: str) -> None:
        """Room for one more waiting job of the tenant, or TooManyRequests."""
        policy = await self._policies.of(tenant)
        await self._room.take(tenant, max_of_tenant=policy.max_queued)

    async def _may_use_high_priority(self, caller: Caller) -> bool:
        return caller.is_admin or (await self._policies.of(caller.tenant)).may_use_high_priority
