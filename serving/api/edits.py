"""POST /v1/images/edits: a picture to start from, and a mask of what is to change, as a form with files."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.responses import JSONResponse

from configs.settings import ApiSettings
from serving.api.calls import CurrentCall
from serving.api.gatekeeper import read_json
from serving.api.image_answers import answer
from serving.api.schemas import EditForm, ErrorBody, ImagesResponse, JobBody
from serving.api.sse import EventStream
from serving.errors import BadInput
from serving.jobs.inputs import EditWish, read_mask, read_picture

router = APIRouter(prefix="/v1/images", tags=["images"])

MAX_FILES, MAX_FIELDS = 20, 64  # more than that is no form of ours
JSON_FIELDS = ("loras", "metadata")
FILE_FIELDS = {"image": ("image", "image[]"), "mask": ("mask",)}


def form_schema() -> dict[str, Any]:
    """The form for the OpenAPI page; FastAPI does not see it, for we read it ourselves, within our limits."""
    schema = EditForm.model_json_schema()
    as_text = {name: {"type": "string", "description": "JSON, as in the calls without files."} for name in JSON_FIELDS}
    files = {name: {"type": "string", "format": "binary"} for name in FILE_FIELDS}
    form = {
        "type": "object",
        "required": ["image", *schema["required"]],
        "properties": files | schema["properties"] | as_text,
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}


@router.post(
    "/edits",
    response_model=ImagesResponse,
    responses={
        202: {"model": JobBody},
        400: {"model": ErrorBody},
        404: {"model": ErrorBody},
        415: {"model": ErrorBody},
    },
    openapi_extra=form_schema(),
)
async def edit(request: Request, call: CurrentCall, response: Response) -> ImagesResponse | EventStream | JSONResponse:
    """Paints a picture anew: all of it, or where the mask is transparent. Answers as image generations do."""
    settings = call.services.settings.api
    async with request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS) as form:
        body = read_fields(form, max_json_depth=settings.max_json_depth)
        wanted = await _read_files(form, body.strength, settings)
    return await answer(call, replace(body.wish(), edit=wanted), body, "image_edit", response)


def read_fields(form: FormData, *, max_json_depth: int) -> EditForm:
    """The text fields with the same checks and the same words as a JSON body. An empty field is one left out."""
    fields: dict[str, object] = {}
    for name, value in form.multi_items():
        field = name.partition("[")[0]
        if field in JSON_FIELDS and field != name:
            raise BadInput(f"{field} must be one field of JSON text, not {name[:40]!r}.", param=field)
        if name in EditForm.model_fields and not isinstance(value, str):
            raise BadInput(f"{name} must be text, not a file.", param=name)
        if isinstance(value, str) and (value or name == "prompt"):
            fields[name] = read_json(value, max_depth=max_json_depth, param=name) if name in JSON_FIELDS else value
    try:
        return EditForm.model_validate(fields)
    except ValidationError as error:
        found = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        raise RequestValidationError(found) from error


async def _read_files(form: FormData, strength: float | None, settings: ApiSettings) -> EditWish:
    images = _files(form, "image")
    if len(images) != 1:
        raise BadInput(
            f"image must be given exactly once: these models start from one picture; there are {len(images)}.",
            param="image",
        )
    masks = _files(form, "mask")
    if len(masks) > 1:
        raise BadInput("mask may be given once.", param="mask")
    # One byte over the limit is enough to refuse it.
    image_data, *mask_data = [await file.read(settings.max_image_bytes + 1) for file in (*images, *masks)]
    image = await asyncio.to_thread(read_picture, "image", image_data, settings)
    mask = await asyncio.to_thread(read_mask, mask_data[0], image, settings) if mask_data else None
    return EditWish(image, mask, strength)


def _files(form: FormData, field: str) -> list[UploadFile]:
    given: Iterable[UploadFile | str] = [value for name in FILE_FIELDS[field] for value in form.getlist(name)]
    files = [value for value in given if isinstance(value, UploadFile)]
    if any(value for value in given if isinstance(value, str)):
        raise BadInput(f"{field} must be a file.", param=field)
    return files
