"""/v1/uploads: announce a picture or a video, send it to the object store, have it checked, look at it, delete it."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, File, Form, Query, Request, UploadFile

from serving.api.deps import CurrentCaller, Services, ServicesDep
from serving.api.multipart import sha256_of
from serving.api.preferences import IdempotencyKey
from serving.api.schemas import ErrorBody
from serving.api.schemas.uploads import (
    MAX_FILENAME_CHARS,
    DeletedUpload,
    NewUploadBody,
    Sign,
    UploadBody,
    UploadList,
    UploadPartList,
    derived_body,
    part_body,
    pending_body,
    upload_body,
)
from serving.errors import Conflict, TooLarge
from serving.jobs.idempotency import fingerprint_of
from serving.jobs.wish import MAX_USER_CHARS, check_text
from serving.uploads.content import ANYTHING, Purpose, plain_type, shown_name
from serving.uploads.upload import Offer, Upload, new_upload_id

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

MAX_PAGE = 100


@router.post("", status_code=201, responses={409: {"model": ErrorBody}, 429: {"model": ErrorBody}})
async def create_upload(
    body: NewUploadBody, services: ServicesDep, caller: CurrentCaller, key: IdempotencyKey, request: Request
) -> UploadBody:
    """Announces a file. PUT it to `url` with `headers`, or each part to its own `url`; then call `complete`."""
    check_text("user", body.user or "", max_chars=MAX_USER_CHARS)
    offer = body.offer(parts_above_bytes=services.settings.uploads.multipart_above_bytes)
    upload_id = await _admit(services, caller.tenant, offer, key, request, {"offer": asdict(offer)}, needs_type=True)
    upload = await services.uploads.announce(caller.tenant, offer, upload_id=upload_id)
    return await _body(services, upload, with_parts=True)


@router.post("/direct", status_code=201, responses={409: {"model": ErrorBody}, 413: {"model": ErrorBody}})
async def upload_directly(
    services: ServicesDep,
    caller: CurrentCaller,
    key: IdempotencyKey,
    request: Request,
    file: Annotated[UploadFile, File(description="A small file; large ones go through POST /v1/uploads.")],
    purpose: Annotated[Purpose, Form()],
    filename: Annotated[str | None, Form(max_length=MAX_FILENAME_CHARS, description="Else the file's own.")] = None,
    user: Annotated[str | None, Form(description="Your user that it belongs to.")] = None,
) -> UploadBody:
    """Announces, sends and completes a small file in one call."""
    check_text("user", user or "", max_chars=MAX_USER_CHARS)
    num_bytes, limit = file.size or 0, services.settings.uploads.multipart_above_bytes
    if num_bytes > limit:
        raise TooLarge(f"The file has more than {limit} bytes: announce it with POST /v1/uploads.", param="file")
    content_type = plain_type(file.content_type or ANYTHING)
    offer = Offer(shown_name(filename or file.filename or ""), content_type, num_bytes, purpose, user or None)
    said = {"offer": asdict(offer), "sha256": "" if key is None else await asyncio.to_thread(sha256_of, file.file)}
    upload_id = await _admit(services, caller.tenant, offer, key, request, said, needs_type=False)
    wait_s = services.settings.api.sync_deadline_s
    upload = await services.uploads.take(caller.tenant, offer, file.file, upload_id=upload_id, wait_s=wait_s)
    return await _body(services, upload)


@router.get("")
async def list_uploads(
    services: ServicesDep,
    caller: CurrentCaller,
    purpose: Purpose | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
    after: Annotated[str | None, Query(max_length=100, description="Id of the last one of the page before.")] = None,
) -> UploadList:
    """Newest first."""
    found = await services.uploads.store.page(caller.tenant, purpose=purpose, limit=limit + 1, after=after)
    page = found[:limit]
    sign = _signer(services)
    return UploadList(
        data=[upload_body(upload, sign) for upload in page],
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=len(found) > limit,
    )


@router.get("/{upload_id}")
async def get_upload(services: ServicesDep, caller: CurrentCaller, upload_id: str) -> UploadBody:
    """With fresh URLs: to send it to while it is pending, to read it from once it is ready."""
    return await _body(services, await services.uploads.store.get(caller.tenant, upload_id))


@router.get("/{upload_id}/parts", responses={409: {"model": ErrorBody}})
async def list_parts(services: ServicesDep, caller: CurrentCaller, upload_id: str) -> UploadPartList:
    """Which parts have arrived, and fresh URLs for those that have not: where a client goes on after a crash."""
    upload = await services.uploads.store.get(caller.tenant, upload_id)
    upload, parts = await services.uploads.receiving.parts(upload)
    return UploadPartList(
        upload_id=upload.id,
        part_bytes=parts[0].num_bytes,
        missing=sum(not part.has_arrived for part in parts),
        data=[part_body(part) for part in parts],
    )


@router.post("/{upload_id}/complete", responses={409: {"model": ErrorBody}, 422: {"model": ErrorBody}})
async def complete_upload(services: ServicesDep, caller: CurrentCaller, upload_id: str) -> UploadBody:
    """Has the file looked at: ready, or refused with the reason. Asked again it answers the same."""
    wait_s = services.settings.api.sync_deadline_s
    return await _body(services, await services.uploads.complete(caller.tenant, upload_id, wait_s=wait_s))


@router.delete("/{upload_id}", responses={409: {"model": ErrorBody}})
async def delete_upload(services: ServicesDep, caller: CurrentCaller, upload_id: str) -> DeletedUpload:
    """Says what was made from it, which stays. Refused while a job that needs it is not over."""
    made = await services.uploads.delete(caller.tenant, upload_id)
    return DeletedUpload(id=upload_id, derived=[derived_body(use) for use in made])


async def _admit(
    services: Services,
    tenant: str,
    offer: Offer,
    key: str | None,
    request: Request,
    said: Mapping[str, object],
    *,
    needs_type: bool,
) -> str:
    """The id of the upload: the first one's, where the key came with the same call before. Raises what refuses it."""
    upload_id, fingerprint = new_upload_id(), fingerprint_of(request.url.path, said)
    if key is None or await services.idempotency.find(tenant, key, fingerprint=fingerprint) is None:
        await services.uploads.desk.check(tenant, offer, needs_type=needs_type)  # a refused call leaves the key free
    if key is None:
        return upload_id
    reserved = await services.idempotency.reserve(tenant, key, fingerprint=fingerprint, new_id=upload_id)
    request.state.is_replay = not reserved.is_new
    return reserved.id


async def _body(services: Services, upload: Upload, *, with_parts: bool = False) -> UploadBody:
    sign = _signer(services)
    if upload.status != "pending":
        return upload_body(upload, sign)
    receiving = services.uploads.receiving
    try:
        upload, ticket = await receiving.ticket(upload)
        parts = None
        if with_parts and upload.goes_in_parts:
            upload, parts = await receiving.parts(upload)
    except Conflict:  # somebody completes it at this moment
        return upload_body(await services.uploads.store.get(upload.tenant, upload.id), sign)
    return pending_body(upload, sign, ticket=ticket, parts=parts)


def _signer(services: Services) -> Sign:
    expiry_s = services.settings.s3.url_expiry_s
    return lambda key, filename: services.blobs.presign_get(key, expiry_s, filename)
