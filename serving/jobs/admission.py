"""Whether a wish may become a job: all that can refuse it, before anything is stored."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from configs.settings import Settings
from models.catalog import load_catalog
from models.spec import ModelSpec
from pipelines.request import JobRequest, TrainingRequest
from serving.adapters.adapter import check_name
from serving.adapters.store import AdapterStore
from serving.errors import BadInput, Forbidden
from serving.jobs.frames_wish import FramesWish, resolve_frames
from serving.jobs.inputs import EditWish
from serving.jobs.job import Kind
from serving.jobs.lora_sources import TrainingSources
from serving.jobs.lora_wish import TrainingWish, check_sources, choose_base, resolve_training, trainable_models
from serving.jobs.queue_room import QueueRoom
from serving.jobs.wish import MAX_LORAS, ImageWish, Wish, resolve_image
from serving.moderation.moderation import Moderation
from serving.outbound import Outbound
from serving.tenancy.auth import Caller
from serving.tenancy.policies import TenantPolicies
from serving.uploads.uploads import Uploads
from serving.webhooks.endpoints import check_webhook_url

AnyWish = ImageWish | FramesWish | TrainingWish


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
        sources: TrainingSources,
        room: QueueRoom,
        policies: TenantPolicies,
        moderation: Moderation,
        outbound: Outbound,
        catalog: Mapping[str, ModelSpec],
        settings: Settings,
    ) -> None:
        self._adapters = adapters
        self._uploads = uploads
        self._sources = sources
        self._room = room
        self._policies = policies
        self._moderation = moderation
        self._outbound = outbound
        self._catalog = catalog
        self._trainable = trainable_models(catalog, load_catalog(), settings.training)
        self._settings = settings

    async def admit(self, caller: Caller, wish: AnyWish) -> Admitted:
        """What is to be made. BadInput, ModerationBlocked, NotFound, Conflict, Forbidden or TooManyRequests."""
        match wish:
            case FramesWish():
                admitted = await self._frames(caller, wish)
            case TrainingWish():
                admitted = await self._training(caller, wish)
            case ImageWish():
                admitted = await self._image(caller, wish)
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

    async def training_request(self, tenant: str, wish: TrainingWish) -> TrainingRequest:
        """What would be trained. BadInput, NotFound or Conflict."""
        check_name(wish.name, self._catalog)
        check_sources(wish, max_uploads=self._settings.training.max_uploads)
        earlier = None if wish.from_job is None else await self._sources.earlier(tenant, wish.from_job)
        default = self._settings.default_image_model if earlier is None else earlier.base_model
        spec = choose_base(default if wish.base_model is None else wish.base_model, self._trainable, self._catalog)
        sources = await self._sources.uploads(tenant, wish.upload_ids)
        return resolve_training(wish, spec, self._settings.training, sources=sources, earlier=earlier)

    async def _training(self, caller: Caller, wish: TrainingWish) -> Admitted:
        """Uploads were looked at when they came in, stills are when they are taken; words are here."""
        request = await self.training_request(caller.tenant, wish)
        await self._adapters.check_room(caller.tenant)  # now, for hours later it would be a pity
        await self._check_terms(caller, wish)
        is_lenient = wish.moderation == "low"
        await self._moderation.check_prompt(caller.tenant, request.trigger, is_lenient=is_lenient, param="trigger")
        for _, text in request.captions:
            await self._moderation.check_prompt(caller.tenant, text, is_lenient=is_lenient, param="captions")
        return Admitted("lora", request)

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
