"""Whether a wish may become a job: all that can refuse it, before anything is stored."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from configs.settings import Settings
from models.spec import ModelSpec
from pipelines.request import JobRequest
from serving.adapters.store import AdapterStore
from serving.errors import BadInput, Forbidden
from serving.jobs.frames_wish import FramesWish, resolve_frames
from serving.jobs.inputs import EditWish
from serving.jobs.job import Kind
from serving.jobs.queue_room import QueueRoom
from serving.jobs.wish import MAX_LORAS, ImageWish, Wish, resolve_image
from serving.moderation.moderation import Moderation
from serving.outbound import Outbound
from serving.tenancy.auth import Caller
from serving.tenancy.policies import TenantPolicies
from serving.uploads.uploads import Uploads
from serving.webhooks.endpoints import check_webhook_url

AnyWish = ImageWish | FramesWish


@dataclass(frozen=True, slots=True)
class Admitted:
    """What is to be made, all choices filled in, and the pictures that it starts from, as they may be kept."""

    kind: Kind
    request: JobRequest
    edit: EditWish | None = None


class Admission:
    """Resolves wishes and finds room for them. Stores nothing."""

    def __init__(
        self,
        adapters: AdapterStore,
        uploads: Uploads,
        room: QueueRoom,
        policies: TenantPolicies,
        moderation: Moderation,
        outbound: Outbound,
        catalog: Mapping[str, ModelSpec],
        settings: Settings,
    ) -> None:
        self._adapters = adapters
        self._uploads = uploads
        self._room = room
        self._policies = policies
        self._moderation = moderation
        self._outbound = outbound
        self._catalog = catalog
        self._settings = settings

    async def admit(self, caller: Caller, wish: AnyWish) -> Admitted:
        """What is to be made. BadInput, ModerationBlocked, NotFound, Conflict, Forbidden or TooManyRequests."""
        admitted = await (self._frames(caller, wish) if isinstance(wish, FramesWish) else self._image(caller, wish))
        await self.make_room(caller.tenant)  # last, for it counts the job as accepted
        return admitted

    async def make_room(self, tenant: str) -> None:
        """Room for one more waiting job of the tenant, or TooManyRequests."""
        policy = await self._policies.of(tenant)
        await self._room.take(tenant, max_of_tenant=policy.max_queued)

    async def _image(self, caller: Caller, wish: ImageWish) -> Admitted:
        request = resolve_image(
            wish,
            self._catalog,
            default_model=self._settings.default_image_model,
            max_prompt_chars=self._settings.api.max_prompt_chars,
            adapters=await self._adapters.find_all(caller.tenant, [lora.name for lora in wish.loras[:MAX_LORAS]]),
        )
        await self._check_terms(caller, wish)
        is_lenient = wish.moderation == "low"
        await self._moderation.check_prompt(caller.tenant, wish.prompt, is_lenient=is_lenient)
        edit = None if wish.edit is None else await self._screened(caller.tenant, wish.edit, is_lenient=is_lenient)
        return Admitted("image", request, edit)

    async def _frames(self, caller: Caller, wish: FramesWish) -> Admitted:
        """The video was looked at when it came in; its stills are looked at when they are taken."""
        upload = await self._uploads.require(caller.tenant, wish.upload_id, "video")
        request = resolve_frames(
            wish,
            video=upload.file,
            duration_s=float(upload.content.media["duration_s"]),
            most_frames=self._settings.frames.max_frames,
        )
        await self._check_terms(caller, wish)
        return Admitted("frames", request)

    async def _check_terms(self, caller: Caller, wish: Wish) -> None:
        """What any job may ask for: how long it waits, before whom, and who is told."""
        longest_s = self._settings.jobs.max_age_s
        if wish.expires_in_s is not None and not 1 <= wish.expires_in_s <= longest_s:
            raise BadInput(f"expires_in_s must be a number from 1 to {longest_s:g}.", param="expires_in_s")
        if wish.priority == "high" and not await self._may_use_high_priority(caller):
            raise Forbidden("priority 'high' needs a key with role admin, or a tenant that may.", param="priority")
        if wish.webhook_url is not None:
            await check_webhook_url(self._outbound, wish.webhook_url)

    async def _screened(self, tenant: str, edit: EditWish, *, is_lenient: bool) -> EditWish:
        """What comes in is looked at as what goes out is, before it is stored. A mask shows nothing but where."""
        [screened] = await self._moderation.screen(
            tenant, [edit.image.data], is_lenient=is_lenient, what="the picture to start from"
        )
        return edit if screened.data is edit.image.data else replace(edit, image=edit.image.with_data(screened.data))

    async def _may_use_high_priority(self, caller: Caller) -> bool:
        return caller.is_admin or (await self._policies.of(caller.tenant)).may_use_high_priority
