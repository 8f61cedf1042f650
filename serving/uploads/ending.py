"""How uploads let go of what they have: temp/, the object they hold, in the end themselves. Steps may be repeated."""

import time

from serving.errors import Conflict, Unavailable
from serving.telemetry import get_logger
from serving.uploads.lineage import Lineage, Standing, Use
from serving.uploads.objects import UploadObjects
from serving.uploads.receiving import Receiving
from serving.uploads.store import UploadStore, is_claimable
from serving.uploads.upload import Upload

log = get_logger("uploads")

KEEP_REFUSED_S = 86_400.0  # after it would have been forgotten anyway: so long the same refusal is given again
MAX_NAMED = 10  # jobs in a message


class UploadEnding:
    """Deletes, forgets, and clears away. What a crash or an absent store leaves undone is found again by wake_at."""

    def __init__(self, uploads: UploadStore, objects: UploadObjects, receiving: Receiving, lineage: Lineage) -> None:
        self._uploads = uploads
        self._objects = objects
        self._receiving = receiving
        self._lineage = lineage

    async def delete(self, upload: Upload) -> list[Use]:
        """What was made from it. Raises Conflict while it is looked at, or while a job that needs it is not over."""
        if upload.status == "checking" and not is_claimable(upload):
            raise Conflict("The upload is being looked at right now.", code="upload_checking")
        _refuse_while_used(await self._lineage.standing(upload.tenant, upload.id))
        deleting = await self._uploads.mark_deleting(upload)
        if deleting is None:
            raise Conflict("The upload has changed just now; try again.", code="upload_changed")
        # Who begins to use it writes that down before they look whether it is there: one of us sees the other.
        standing = await self._lineage.standing(upload.tenant, upload.id)
        if standing.in_the_making:
            await self._uploads.unmark(deleting, upload)
            _refuse_while_used(standing)
        try:
            await self.finish(deleting)
        except Unavailable as error:  # gone for everybody all the same
            log.warning("upload not removed yet", upload_id=upload.id, reason=error.message)
        return standing.made

    async def forget(self, upload: Upload) -> None:
        """Deletes what nobody can want any more."""
        if (deleting := await self._uploads.mark_deleting(upload)) is not None:
            await self.finish(deleting)

    async def finish(self, deleting: Upload) -> None:
        """All that a deleted upload has goes; its document last, once nothing can be sent to it any more."""
        await self.release(deleting)
        await self._receiving.clear(deleting)
        await self._lineage.forget(deleting.tenant, deleting.id)
        if deleting.urls_until > time.time():
            await self._uploads.wake_later(deleting, deleting.urls_until)
        else:
            await self._uploads.forget(deleting)

    async def release(self, upload: Upload) -> None:
        """It holds nothing any more, and what nobody else holds goes."""
        await self._uploads.unhold(upload)
        if upload.hold is not None:
            await self._objects.let_go(upload.tenant, upload.hold)

    async def tidy(self, decided: Upload) -> None:
        """Empties temp/ after a ready or a refused upload, and again when the last URL to send it to has ended."""
        await self._receiving.clear(decided)
        wake_at = decided.urls_until if decided.urls_until > time.time() else 0.0
        if decided.status == "failed":
            wake_at = wake_at or forget_at(decided)
        await self._uploads.wake_later(decided, wake_at)


def forget_at(failed: Upload) -> float:
    """When nobody can want to hear its refusal again."""
    return failed.expires_at + KEEP_REFUSED_S


def _refuse_while_used(standing: Standing) -> None:
    if busy := standing.in_the_making:
        named = ", ".join(use.id for use in busy[:MAX_NAMED]) + (" …" if len(busy) > MAX_NAMED else "")
        raise Conflict(f"Jobs that are not over need this upload: {named}.", code="upload_in_use")
