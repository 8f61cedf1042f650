"""/v1/loras: import, list, download and delete adapters. Another tenant's adapter is as unknown as none at all."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Annotated, BinaryIO

from fastapi import APIRouter, File, Form, Path, Request, Response, UploadFile
from pydantic import ValidationError
from starlette.responses import RedirectResponse

from models.adapter_keys import Naming
from models.errors import AdapterError
from models.spec import Family
from serving.adapters.adapter import Adapter
from serving.adapters.importing import AdapterImporter, AdapterOffer
from serving.adapters.store import adapter_not_found
from serving.api.deps import CurrentCaller, Services, ServicesDep
from serving.api.multipart import sha256_of
from serving.api.preferences import IdempotencyKey
from serving.api.schemas import Deleted
from serving.api.schemas.loras import (
    ImportMetadata,
    LoraBody,
    LoraFormat,
    LoraList,
    LoraVersionBody,
    lora_body,
    version_body,
)
from serving.errors import BadInput
from serving.jobs.idempotency import fingerprint_of
from serving.jobs.wish import check_text

router = APIRouter(prefix="/v1/loras", tags=["loras"])

MAX_TRIGGER_CHARS = 200
# Whose words diffusers understands, whatever the layers are; some more it reads in part.
READ_BY_DIFFUSERS: dict[Family, frozenset[Naming]] = {
    "sd": frozenset({"diffusers", "kohya"}),
    "sdxl": frozenset({"diffusers", "kohya"}),
    "flux": frozenset({"diffusers", "kohya", "comfyui", "other"}),
    "sd3": frozenset({"diffusers"}),
    "z-image": frozenset({"diffusers"}),
    "qwen-image": frozenset({"diffusers", "kohya", "comfyui"}),
}

Version = Annotated[int, Path(ge=1, le=999_999_999)]


@router.get("")
async def list_loras(services: ServicesDep, caller: CurrentCaller) -> LoraList:
    """All adapters with all their versions, by name."""
    versions = sorted(await services.adapters.versions(caller.tenant), key=attrgetter("name"))
    sign = _signer(services)
    return LoraList(data=[lora_body(list(group), sign) for _, group in groupby(versions, key=attrgetter("name"))])


@router.post("/import", status_code=201, responses={200: {"model": LoraVersionBody}})
async def import_lora(
    request: Request,
    services: ServicesDep,
    caller: CurrentCaller,
    key: IdempotencyKey,
    response: Response,
    file: Annotated[UploadFile, File(description="A LoRA as safetensors: diffusers, PEFT, kohya or ComfyUI keys.")],
    name: Annotated[str, Form(description="1 to 64 of a–z, 0–9, - and _.", examples=["alice-style"])],
    base_model: Annotated[
        str | None, Form(description="The model it was made for; the default one if left out.")
    ] = None,
    trigger: Annotated[str | None, Form(description="The word that calls for it in a prompt.")] = None,
    metadata: Annotated[str | None, Form(description="A JSON object of texts, kept as it is.")] = None,
) -> LoraVersionBody:
    """201 and a new version; 200 and the present one when the same file is already there under this name and model."""
    check_text("trigger", trigger or "", max_chars=MAX_TRIGGER_CHARS)
    offer = AdapterOffer(name, base_model or None, trigger or None, _metadata(metadata))
    importer = AdapterImporter(services.adapters, services.blobs, services.router, services.catalog, services.settings)
    # Whoever repeats an import gets the present version, with a key or without: a key only tells two imports apart.
    fingerprint = "" if key is None else await asyncio.to_thread(_fingerprint, request.url.path, offer, file.file)
    if key is not None:
        held = await services.idempotency.find(caller.tenant, key, fingerprint=fingerprint)
        request.state.is_replay = held is not None
    adapter, is_new = await importer.run(caller.tenant, offer, file.file)
    if key is not None:
        await services.idempotency.reserve(caller.tenant, key, fingerprint=fingerprint, new_id=adapter.reference)
    if not is_new:
        response.status_code = 200
    return version_body(adapter, _signer(services))


@router.get("/{name}")
async def get_lora(services: ServicesDep, caller: CurrentCaller, name: str) -> LoraBody:
    versions = await services.adapters.versions(caller.tenant, name)
    if not versions:
        raise adapter_not_found(name)
    return lora_body(versions, _signer(services))


@router.get("/{name}/versions/{version}/download", status_code=307, response_class=RedirectResponse)
async def download_lora(
    services: ServicesDep, caller: CurrentCaller, name: str, version: Version, format: LoraFormat | None = None
) -> RedirectResponse:
    """To a URL of the file. Without `format` the file as it came.

    `diffusers`: the same bytes, since diffusers reads its own keys, PEFT's and kohya's; refused for what it does not.
    `kohya`: rewritten with kohya's keys and an alpha for every layer, unless it came that way; not for FLUX.
    """
    adapter = await services.adapters.resolve(caller.tenant, f"{name}@{version}")
    key = await _key_of(services, adapter, format)
    url = services.blobs.presign_get(
        key,
        expiry_s=services.settings.s3.url_expiry_s,
        filename=f"{name}-v{version}{'.kohya' if format == 'kohya' else ''}.safetensors",
    )
    return RedirectResponse(url, status_code=307)


@router.delete("/{name}")
async def delete_lora(services: ServicesDep, caller: CurrentCaller, name: str) -> Deleted:
    """All versions. Their numbers are never given again; queued jobs that name one of them fail."""
    await services.adapters.delete(caller.tenant, name)
    return Deleted(id=name)


@router.delete("/{name}/versions/{version}")
async def delete_lora_version(services: ServicesDep, caller: CurrentCaller, name: str, version: Version) -> Deleted:
    await services.adapters.delete(caller.tenant, name, version)
    return Deleted(id=f"{name}@{version}")


def _signer(services: Services) -> Callable[[str], str]:
    return partial(services.blobs.presign_get, expiry_s=services.settings.s3.url_expiry_s)


async def _key_of(services: Services, adapter: Adapter, wanted: LoraFormat | None) -> str:
    manifest = adapter.manifest
    if wanted == "diffusers" and manifest.naming not in READ_BY_DIFFUSERS[manifest.family]:
        raise BadInput(
            f"{adapter.reference} has {manifest.naming} keys, which diffusers does not read for {manifest.family}.",
            param="format",
            code="unsupported",
        )
    if wanted == "kohya":
        try:
            return await services.adapters.kohya_key(adapter)
        except AdapterError as error:
            raise BadInput(str(error), param="format", code="unsupported") from error
    return adapter.folder.weights_key


def _fingerprint(path: str, offer: AdapterOffer, file: BinaryIO) -> str:
    return fingerprint_of(path, {"offer": asdict(offer), "sha256": sha256_of(file)})


def _metadata(text: str | None) -> dict[str, str]:
    if not text:
        return {}
    try:
        return ImportMetadata.model_validate_json(text).root
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"metadata must be a JSON object of texts: {first['msg']}.", param="metadata") from error
