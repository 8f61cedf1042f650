"""A video that a client names by URL becomes an upload: fetched under the guard of serving.outbound, then looked at."""

from dataclasses import dataclass
from tempfile import TemporaryFile
from urllib.parse import unquote, urlsplit

from serving.api.calls import Call
from serving.errors import AppError, BadInput, NotFound, Unavailable, Unprocessable
from serving.jobs.idempotency import fingerprint_of
from serving.outbound import Answer, BadTarget, OutboundError
from serving.telemetry import get_logger
from serving.uploads.content import ANYTHING, Purpose, plain_type, shown_name, types_of
from serving.uploads.upload import Offer, new_upload_id

log = get_logger("api")

PURPOSE: Purpose = "video"
OK = 200


@dataclass(frozen=True, slots=True)
class Fetched:
    """An upload that is ready."""

    upload_id: str
    is_new: bool  # fetched by this very call


async def fetch_video(call: Call, url: str, *, user: str, param: str) -> Fetched:
    """The video at that URL as an upload. Raises BadInput naming `param`, and what POST /v1/uploads/direct raises.

    A call that comes again with its idempotency key gets the upload of the first time, and nothing is fetched twice.
    """
    tenant, uploads = call.caller.tenant, call.services.uploads
    upload_id = await _upload_id(call, url)
    if await _is_ready(call, upload_id):
        return Fetched(upload_id, is_new=False)
    limit_bytes = await uploads.desk.max_bytes(tenant, PURPOSE)
    try:
        with TemporaryFile() as file:
            deadline_s = call.services.settings.api.sync_deadline_s
            answer = await call.services.outbound.download(url, file, timeout_s=deadline_s, max_bytes=limit_bytes)
            _check(answer, param)
            offer = Offer(_name_of(url), _type_of(answer), file.tell(), PURPOSE, user)
            await uploads.desk.check(tenant, offer, needs_type=False)
            file.seek(0)
            await uploads.take(tenant, offer, file, upload_id=upload_id, wait_s=deadline_s)
    except OutboundError as error:
        kind = BadInput if isinstance(error, BadTarget) else Unprocessable
        raise kind(f"The video could not be fetched. {error}", param=param, code=error.code) from error
    except OSError as error:
        raise Unavailable("There is no room for the video.", code="storage_unavailable") from error
    return Fetched(upload_id, is_new=True)


async def give_back(call: Call, fetched: Fetched) -> None:
    """Deletes what was fetched for nothing."""
    try:
        await call.services.uploads.delete(call.caller.tenant, fetched.upload_id)
    except AppError as error:
        log.warning("a video that was fetched stays", upload_id=fetched.upload_id, reason=error.message)


async def _upload_id(call: Call, url: str) -> str:
    """A new one, or the one that this call's key stood for before."""
    new_id = new_upload_id()
    if call.key is None:
        return new_id
    # No client can send a key with a line feed: this one is beside the key of the job.
    key, fingerprint = f"{call.key.text}\nupload", fingerprint_of(call.key.route, {"url": url})
    held = await call.services.idempotency.reserve(call.caller.tenant, key, fingerprint=fingerprint, new_id=new_id)
    return held.id


async def _is_ready(call: Call, upload_id: str) -> bool:
    try:
        return (await call.services.uploads.store.get(call.caller.tenant, upload_id)).status == "ready"
    except NotFound:
        return False


def _check(answer: Answer, param: str) -> None:
    if answer.status != OK:
        message = f"The video could not be fetched. The server there answered {answer.status}."
        raise Unprocessable(message, param=param, code="fetch_failed")


def _type_of(answer: Answer) -> str:
    """What was said of it, where that is a type of video: file servers often do not know. Its bytes decide."""
    said = plain_type(answer.headers.get("content-type", ""))
    return said if said in types_of(PURPOSE) else ANYTHING


def _name_of(url: str) -> str:
    return shown_name(unquote(urlsplit(url).path.rpartition("/")[2]))
