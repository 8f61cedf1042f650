"""What a client may announce: judged by what it says of the file, before a byte is sent."""

from configs.settings import UploadSettings
from serving.errors import Conflict, TooManyRequests
from serving.tenancy.policies import TenantPolicies, TenantPolicy
from serving.uploads.accounts import Accounts, no_room
from serving.uploads.content import ANYTHING, Purpose, types_of
from serving.uploads.inspecting import UploadRefused
from serving.uploads.store import UploadStore
from serving.uploads.upload import Offer

RETRY_AFTER_S = 60


class OfferDesk:
    """Lets an offer pass, or says which limit it is over."""

    def __init__(
        self, uploads: UploadStore, accounts: Accounts, policies: TenantPolicies, settings: UploadSettings
    ) -> None:
        self._uploads = uploads
        self._accounts = accounts
        self._policies = policies
        self._settings = settings

    async def check(self, tenant: str, offer: Offer, *, needs_type: bool) -> None:
        """Raises UploadRefused, TooManyRequests, or Conflict where all uploads together would be too large.

        Offers made at once may step over the last two together, by as many as they are; nothing is stored over it.
        """
        policy = await self._policies.of(tenant)
        _check_file(offer, policy, needs_type=needs_type)
        limit = self._settings.max_pending
        announced = await self._uploads.announced(tenant, limit=limit)
        if len(announced) >= limit:
            raise TooManyRequests(
                f"{limit} uploads are announced and not completed; complete or delete some.",
                retry_after_s=RETRY_AFTER_S,
                code="too_many_uploads",
            )
        taken_bytes = await self._accounts.total_bytes(tenant) + sum(announced)
        if taken_bytes + offer.num_bytes > policy.max_stored_bytes:
            raise Conflict(no_room(taken_bytes, offer.num_bytes, policy.max_stored_bytes), code="storage_full")

    async def max_bytes(self, tenant: str, purpose: Purpose) -> int:
        """The tenant's limit for one file, for those who do not know yet how large theirs is."""
        return max_bytes_of(purpose, await self._policies.of(tenant))


def max_bytes_of(purpose: Purpose, policy: TenantPolicy) -> int:
    """The tenant's limit for one file."""
    return policy.max_image_bytes if purpose == "image" else policy.max_video_bytes


def _check_file(offer: Offer, policy: TenantPolicy, *, needs_type: bool) -> None:
    limit_bytes = max_bytes_of(offer.purpose, policy)
    if offer.num_bytes == 0:
        raise UploadRefused("empty_file", "The file is empty.", param="bytes")
    if offer.num_bytes > limit_bytes:
        message = f"The file has {offer.num_bytes} bytes; this tenant's limit for one {offer.purpose} is {limit_bytes}."
        raise UploadRefused("too_large", message, param="bytes")
    known = types_of(offer.purpose)
    if offer.content_type not in known and (needs_type or offer.content_type != ANYTHING):
        message = (
            f"{offer.content_type[:100]!r} is no content type of an {offer.purpose}; there are {', '.join(known)}."
        )
        raise UploadRefused("unsupported_type", message, param="content_type")
