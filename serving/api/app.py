"""The FastAPI application: routes, the gatekeeper around them, and one handler per kind of error."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends as DependsParam
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from models.errors import ModelError
from serving.api import (
    admin,
    edits,
    events,
    frames,
    generations,
    health,
    images,
    jobs,
    legacy_loras,
    loras,
    models,
    moderations,
    trainings,
    uploads,
    webhooks,
)
from serving.api.deps import Services, bearer, open_for_work
from serving.api.gatekeeper import PROTECTED_PREFIXES, Gatekeeper
from serving.api.schemas import ErrorBody
from serving.errors import AppError, BadInput, MethodNotAllowed, NotFound, Unprocessable, translate
from serving.telemetry import get_logger

log = get_logger("api")

# OpenAI's routes answer 400 to a body that does not fit; ours say 422.
OPENAI_PREFIXES = ("/v1/images", "/v1/moderations")
MAX_NAME_CHARS = 80  # of a field, told back in an error
ROUTERS = (
    images.router,
    edits.router,
    generations.router,
    frames.router,
    trainings.router,
    jobs.router,
    events.router,
    loras.router,
    legacy_loras.router,
    uploads.router,
    webhooks.router,
    models.router,
    moderations.router,
    admin.router,
    health.router,
)
MAKE_JOBS = (images.router, edits.router, generations.router, frames.router, trainings.router)


def build_app(services: Services) -> ASGIApp:
    """The whole HTTP surface over the given services."""
    # Offline: the documentation's own script and style come from here too, not from somebody's CDN.
    app = FastAPIOffline(
        redoc_url=None,
        title="Darkroom",
        version=version("darkroom"),
        description="Self-hosted inference for generative media. Every generation is a job.",
    )
    app.state.services = services
    for router in ROUTERS:
        dependencies = _security_of(router.prefix) + ([Depends(open_for_work)] if router in MAKE_JOBS else [])
        app.include_router(router, dependencies=dependencies, responses=_errors_of(router.prefix))
    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(ModelError, _model_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected_error)
    max_direct_bytes = services.settings.uploads.multipart_above_bytes
    return Gatekeeper(app, keys=services.keys, settings=services.settings.api, max_direct_bytes=max_direct_bytes)


def _app_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AppError)
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


def _model_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ModelError)
    return _app_error(request, translate(error))


def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    message, param = describe_errors(error.errors())
    kind = BadInput if request.url.path.startswith(OPENAI_PREFIXES) else Unprocessable
    return _app_error(request, kind(message, param=param))


def _http_error(request: Request, error: Exception) -> JSONResponse:
    """Starlette's own: no such path, wrong method, a body that broke off."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, AppError):  # FastAPI's wrapper around what the gatekeeper said of the body
        return _app_error(request, error.__cause__)
    where = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return _app_error(request, NotFound(f"There is no {where}.", code="unknown_url"))
    if error.status_code == 405:
        refusal = _app_error(request, MethodNotAllowed(f"{where} is not allowed."))
        refusal.headers.update(error.headers or {})  # Allow
        return refusal
    return _app_error(request, BadInput(str(error.detail)))


def _unexpected_error(request: Request, error: Exception) -> JSONResponse:
    """Our bug: logged with its traceback, told without."""
    log.error("unexpected error", path=request.url.path, exc_info=error)
    request_id = getattr(request.state, "request_id", "unknown")
    return _app_error(request, AppError(f"Something went wrong on our side. Request id: {request_id}."))


def describe_errors(errors: Sequence[dict[str, object]]) -> tuple[str, str | None]:
    """Pydantic's findings as one sentence, and the name of the first field."""
    sentences: list[str] = []
    first: str | None = None
    for error in errors:
        location = error["loc"]
        assert isinstance(location, tuple)
        # A client's own words come back here: cut, and without halves of surrogate pairs, which no answer can carry.
        name = ".".join(str(part) for part in location[1:]).encode("utf-8", "replace").decode() or "body"
        name = name if len(name) <= MAX_NAME_CHARS else f"{name[:MAX_NAME_CHARS]}…"
        first = first or name
        sentences.append(f"{name}: {error['msg']}")
    return "; ".join(sentences[:5]) + ".", first


def _security_of(prefix: str) -> list[DependsParam]:
    """Marks protected routes in the OpenAPI page; the gatekeeper is what enforces the key."""
    return [Depends(bearer)] if _is_protected(prefix) else []


def _errors_of(prefix: str) -> dict[int | str, dict[str, Any]]:
    """Says in the OpenAPI page that every refusal has OpenAI's shape, FastAPI's own 422 included."""
    return {"4XX": {"model": ErrorBody, "description": "Refused; says why."}} if _is_protected(prefix) else {}


def _is_protected(prefix: str) -> bool:
    return f"{prefix}/".startswith(PROTECTED_PREFIXES)
