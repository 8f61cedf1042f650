"""One look at an upload: claim it, collect its bytes, have them inspected and screened, keep them, say so.

A look that dies is taken up by the next who asks, once its claim has run out; a look that could not be finished puts
the upload back. Whatever is decided, temp/ is cleared.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from functools import partial

from configs.settings import UploadSettings
from models.blobs import BlobInfo, BlobStore
from models.errors import BlobChanged, BlobNotFound
from pipelines.request import StoredFile
from serving.errors import AppError, Conflict, LeaseLost, ModerationBlocked, Unavailable
from serving.moderation.moderation import Moderation
from serving.telemetry import get_logger
from serving.tenancy.policies import TenantPolicies, TenantPolicy
from serving.uploads.content import EXTENSIONS, is_same_kind
from serving.uploads.ending import UploadEnding
from serving.uploads.inspecting import FramesLink, Inspected, InspectOrder, LookLimits, UploadRefused, sent_anew
from serving.uploads.objects import StoredObject, UploadObjects, object_id
from serving.uploads.offers import max_bytes_of
from serving.uploads.picture import THUMBNAIL_TYPE, Picture, kept_picture
from serving.uploads.receiving import Receiving
from serving.uploads.store import LEASE_S, UploadStore
from serving.uploads.upload import Content, Refusal, Upload

log = get_logger("uploads")

SLOWEST_BYTES_PER_S = 5_000_000  # of the way from the object store to whoever looks
WAIT_FOR_REPLICA_S = 60.0


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be kept of a file, and what was found out about it."""

    inspected: Inspected
    picture: Picture | None  # None for a video, which is kept as it came
    is_nsfw: bool | None = None
    nsfw_score: float | None = None

    @property
    def variant(self) -> str:
        return "blurred" if self.picture is not None and self.picture.is_blurred else "plain"


class UploadChecker:
    """Takes claimed uploads to their end."""

    def __init__(
        self,
        uploads: UploadStore,
        objects: UploadObjects,
        receiving: Receiving,
        ending: UploadEnding,
        blobs: BlobStore,
        frames: FramesLink,
        moderation: Moderation,
        policies: TenantPolicies,
        settings: UploadSettings,
    ) -> None:
        self._uploads = uploads
        self._objects = objects
        self._receiving = receiving
        self._ending = ending
        self._blobs = blobs
        self._frames = frames
        self._moderation = moderation
        self._policies = policies
        self._settings = settings

    async def run(self, claimed: Upload) -> Upload:
        """The upload, ready or failed. What it raises leaves it pending: not sent, or nobody could look."""
        beating = asyncio.create_task(self._keep_claim(claimed))
        try:
            ended = await self._decide(claimed)
        except LeaseLost as error:
            raise Conflict("Somebody else has taken the upload over.", code="upload_checking") from error
        except BaseException:
            await self._put_back(claimed)
            raise
        finally:
            beating.cancel()
        log.info("upload checked", upload_id=ended.id, tenant=ended.tenant, status=ended.status)
        try:
            await self._ending.tidy(ended)
        except Unavailable as error:  # the upkeep does it
            log.warning("upload not cleared away", upload_id=ended.id, reason=error.message)
        return ended

    async def _decide(self, claimed: Upload) -> Upload:
        if claimed.hold is not None:  # a look before this one began to keep something
            await self._ending.release(claimed)
        try:
            incoming = await self._receiving.collect(claimed)
            policy = await self._policies.of(claimed.tenant)
            wanted = await self._look(claimed, incoming, policy)
            return await self._keep(claimed, incoming, wanted, limit_bytes=policy.max_stored_bytes)
        except (UploadRefused, ModerationBlocked) as refused:
            return await self._uploads.fail(claimed, Refusal.of(refused))

    async def _look(self, claimed: Upload, incoming: BlobInfo, policy: TenantPolicy) -> _Wanted:
        order = InspectOrder(
            key=incoming.key,
            etag=incoming.etag,
            num_bytes=incoming.size_bytes,
            purpose=claimed.purpose,
            max_bytes=max_bytes_of(claimed.purpose, policy),
            limits=self._limits(policy),
        )
        timeout_s = self._settings.check_timeout_s + WAIT_FOR_REPLICA_S + claimed.num_bytes / SLOWEST_BYTES_PER_S
        inspected = await self._frames.inspect(order, timeout_s=timeout_s)
        found = inspected.content_type
        if claimed.claims_a_type and not is_same_kind(claimed.purpose, claimed.content_type, found):
            message = f"It was announced as {claimed.content_type}, and its bytes are {found}."
            raise UploadRefused("type_mismatch", message)
        if inspected.cleaned is None:
            return _Wanted(inspected, picture=None)
        assert inspected.thumbnail is not None, "a picture comes with its thumbnail"
        (screened,) = await self._moderation.screen(claimed.tenant, [inspected.cleaned])
        picture = await asyncio.to_thread(
            kept_picture,
            inspected.cleaned,
            inspected.thumbnail,
            screened.data,
            thumbnail_px=self._settings.thumbnail_px,
        )
        return _Wanted(inspected, picture, screened.is_nsfw, screened.score)

    def _limits(self, policy: TenantPolicy) -> LookLimits:
        return LookLimits(
            min_image_px=self._settings.min_image_px,
            max_image_px=self._settings.max_image_px,
            thumbnail_px=self._settings.thumbnail_px,
            max_video_s=policy.max_video_s,
            max_video_px=self._settings.max_video_px,
        )

    async def _keep(self, claimed: Upload, incoming: BlobInfo, wanted: _Wanted, *, limit_bytes: int) -> Upload:
        ours = _object(claimed, wanted)
        holding = await self._uploads.hold(claimed, ours.hold)
        try:
            write = partial(self._write, ours, incoming, wanted)
            kept = await self._objects.keep(ours, write, limit_bytes=limit_bytes)
            return await self._uploads.finish(holding, _content(wanted, kept), kept.hold)
        except BaseException:
            await self._ending.release(holding)
            raise

    def _write(self, ours: StoredObject, incoming: BlobInfo, wanted: _Wanted) -> None:
        """In a thread: the object store blocks."""
        if wanted.picture is None:
            self._copy(incoming, ours.file.key)
            return
        assert ours.thumbnail_key is not None
        self._blobs.put(ours.file.key, wanted.picture.data, wanted.inspected.content_type)
        self._blobs.put(ours.thumbnail_key, wanted.picture.thumbnail, THUMBNAIL_TYPE)

    def _copy(self, incoming: BlobInfo, key: str) -> None:
        """The very object that was looked at: the URL to send another to is still good."""
        try:
            self._blobs.copy(incoming.key, key, etag=incoming.etag)
        except (BlobChanged, BlobNotFound) as error:
            raise sent_anew() from error

    async def _keep_claim(self, claimed: Upload) -> None:
        """Renews it for as long as the look takes; without the database the claim may run out."""
        with contextlib.suppress(LeaseLost):  # whoever decides finds out
            while True:
                await asyncio.sleep(LEASE_S / 3)
                try:
                    await self._uploads.renew(claimed)
                except Unavailable as error:
                    log.warning("claim not renewed", upload_id=claimed.id, reason=error.message)

    async def _put_back(self, claimed: Upload) -> None:
        """As if nobody had looked; where that fails, the claim runs out."""
        try:
            await self._uploads.put_back(claimed)
        except (LeaseLost, AppError) as error:
            log.warning("upload not put back", upload_id=claimed.id, reason=str(error))


def _object(claimed: Upload, wanted: _Wanted) -> StoredObject:
    """What would be stored if it is the first with its bytes. The fence keeps two claims of it apart."""
    inspected, picture = wanted.inspected, wanted.picture
    prefix = f"{claimed.folder}{claimed.fence}"
    thumbnail_key = None
    if picture is None:
        file, num_bytes = StoredFile(f"{prefix}-video", inspected.sha256), inspected.num_bytes
    else:
        file = StoredFile(f"{prefix}-image.{EXTENSIONS[inspected.content_type]}", picture.sha256)
        thumbnail_key = f"{prefix}-thumbnail.{EXTENSIONS[THUMBNAIL_TYPE]}"
        num_bytes = len(picture.data) + len(picture.thumbnail)
    return StoredObject(
        id=object_id(claimed, inspected.sha256, wanted.variant),
        tenant=claimed.tenant,
        nonce=f"{claimed.id}-{claimed.fence}",
        maker=claimed.id,
        maker_fence=claimed.fence,
        file=file,
        thumbnail_key=thumbnail_key,
        num_bytes=num_bytes,
    )


def _content(wanted: _Wanted, kept: StoredObject) -> Content:
    return Content(
        sha256=wanted.inspected.sha256,
        content_type=wanted.inspected.content_type,
        media=dict(wanted.inspected.media),
        file=kept.file,
        thumbnail_key=kept.thumbnail_key,
        is_nsfw=wanted.is_nsfw,
        nsfw_score=wanted.nsfw_score,
    )
