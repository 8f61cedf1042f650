"""Before any route: request id, key, body size, nesting and content type; after it: one log line and the metrics.

A plain ASGI middleware, so that nothing of an unauthenticated body is ever parsed.
"""

import asyncio
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from configs.settings import ApiSettings
from serving.api.hang_ups import HungUp
from serving.api.multipart import Upload, content_type_of, declares_more, drain, unsupported
from serving.errors import AppError, BadInput, NotAuthenticated, RequestTimeout, TooLarge
from serving.telemetry import HTTP_REQUESTS, HTTP_SECONDS, get_logger
from serving.tenancy.auth import KeyRing

log = get_logger("api")

PROTECTED_PREFIXES = ("/v1/", "/api/")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # a client may make up others
# The routes that take files. Everywhere else a body is JSON.
DIRECT_UPLOADS = "/v1/uploads/direct"
MULTIPART_PATHS = frozenset({"/v1/images/edits", "/v1/loras/import", DIRECT_UPLOADS})
FORM_BYTES = 65_536  # of a form beside its file
QUIET_PATHS = frozenset({"/health", "/health/live", "/health/ready", "/metrics"})
REQUEST_ID = re.compile(r"[A-Za-z0-9_.:\-]{1,128}")
# Possessive, and an open string runs to the end: one pass over the text, whatever it holds.
STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{\]}]', re.DOTALL)


class Gatekeeper:
    """Wraps the FastAPI application."""

    def __init__(self, app: ASGIApp, *, keys: KeyRing, settings: ApiSettings, max_direct_bytes: int) -> None:
        self._app = app
        self._keys = keys
        self._settings = settings
        self._max_direct_bytes = min(max_direct_bytes + FORM_BYTES, settings.max_upload_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        answer = _Answer(send, scope["state"])
        started = time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                checked = await self._let_in(scope, headers, receive, answer)
                await self._app(scope, checked, answer.send)
            except asyncio.CancelledError:
                answer.status = answer.status or HungUp.status  # that is how Ray Serve tells it
                raise
            except AppError as error:
                if answer.status is not None:
                    raise
                response = JSONResponse(error.body(), status_code=error.status, headers=error.headers)
                await response(scope, receive, answer.send)
            finally:
                # Bound to the request's context, which may outlive it: the next request on it is another caller's.
                self._account(scope, answer.status or 500, time.perf_counter() - started)
                structlog.contextvars.unbind_contextvars("tenant")

    async def _let_in(self, scope: Scope, headers: Headers, receive: Receive, answer: "_Answer") -> Receive:
        """Key first, then the body. A client that does not send what it announced must not hold us for ever."""
        try:
            async with asyncio.timeout(self._settings.body_deadline_s):
                await self._admit(scope, headers, receive)
                if scope["method"] == "POST" and scope["path"] in MULTIPART_PATHS:
                    is_direct = scope["path"] == DIRECT_UPLOADS
                    upload = Upload(
                        receive,
                        limit_bytes=self._max_direct_bytes if is_direct else self._settings.max_upload_bytes,
                        within_s=self._settings.body_deadline_s,
                    )
                    await upload.check(headers)
                    answer.before_start = upload.drain  # where a route refuses before it has read all
                    return upload.receive
                return await self._with_body(scope, headers, receive)
        except TimeoutError as error:
            deadline_s = self._settings.body_deadline_s
            raise RequestTimeout(f"The request was not complete after {deadline_s:g} s.") from error

    async def _admit(self, scope: Scope, headers: Headers, receive: Receive) -> None:
        if not scope["path"].startswith(PROTECTED_PREFIXES):
            return
        try:
            caller = await self._keys.authenticate(_bearer_key(headers))
        except NotAuthenticated:
            await drain(receive)
            raise
        scope["state"]["caller"] = caller
        structlog.contextvars.bind_contextvars(tenant=caller.tenant)

    async def _with_body(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """Reads a JSON body whole, checks its form, and hands it on; other requests pass untouched."""
        if scope["method"] not in {"POST", "PUT", "PATCH"} or not scope["path"].startswith(PROTECTED_PREFIXES):
            return receive
        body = await self._read(headers, receive)
        content_type = content_type_of(headers)
        if body and content_type != "application/json" and not content_type.endswith("+json"):
            raise unsupported(content_type, expected="application/json")
        if body:
            check_json(body, max_depth=self._settings.max_json_depth)
        return _replay(body, receive)

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        limit = self._settings.max_body_bytes
        too_large = TooLarge(f"The body is larger than {limit} bytes.")
        if declares_more(headers, limit):
            await drain(receive)
            raise too_large
        chunks: list[bytes] = []
        num_bytes = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise BadInput("The request ended before its body was complete.", code="body_incomplete")
            num_bytes += len(message.get("body", b""))
            if num_bytes > limit:
                if message.get("more_body", False):  # else receive() would wait for the client to hang up
                    await drain(receive)
                raise too_large
            chunks.append(message.get("body", b""))
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _account(self, scope: Scope, status: int, seconds: float) -> None:
        # The route's pattern, not the path: paths hold ids, and a label per id would never end.
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in METHODS else "other"
        HTTP_REQUESTS.labels(method, route, str(status)).inc()
        HTTP_SECONDS.labels(route).observe(seconds)
        level = log.debug if scope["path"] in QUIET_PATHS else log.info
        level("answered", method=scope["method"], path=scope["path"], status=status, ms=round(seconds * 1000, 1))


class _Answer:
    """Sends, adds what every answer says in its headers, and remembers the status."""

    def __init__(self, send: Send, state: MutableMapping[str, Any]) -> None:
        self._send = send
        self._state = state  # of the request: routes write into it too
        self.status: int | None = None
        self.before_start: Callable[[], Awaitable[None]] | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self.before_start is not None:
                await self.before_start()
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self._state["request_id"]
            if self._state.get("is_replay"):
                headers["Idempotent-Replayed"] = "true"
        await self._send(message)


def check_json(body: bytes, *, max_depth: int) -> None:
    """Refuses what is not a JSON object of moderate depth."""
    try:
        # UTF-8 only: in another encoding the bytes of a character may look like quotes and hide the depth.
        text = body.decode("utf-8")
    except ValueError as error:
        raise BadInput(f"The body is not valid JSON: {error}.", code="invalid_json") from error
    if not isinstance(read_json(text, max_depth=max_depth), dict):
        raise BadInput("The body must be a JSON object.", code="invalid_json")


def read_json(text: str, *, max_depth: int, param: str | None = None) -> object:
    """The value, or BadInput for what nests too deep or is not JSON, as NaN and Infinity are not."""
    named = param or "The body"
    if _depth(text) > max_depth:
        raise BadInput(f"{named} nests deeper than {max_depth} levels.", param=param, code="json_too_deep")
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise BadInput(f"{named} is not valid JSON: {error}.", param=param, code="invalid_json") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _depth(text: str) -> int:
    """Deepest nesting of brackets outside strings, as far as a JSON reader could get."""
    depth = deepest = 0
    for token in STRING_OR_BRACKET.finditer(text):
        if token[0] in {"[", "{"}:
            depth += 1
            deepest = max(deepest, depth)
        elif token[0] in {"]", "}"}:
            depth -= 1
    return deepest


def _bearer_key(headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise NotAuthenticated(
            "You didn't provide an API key. Send it in the header 'Authorization: Bearer <key>'.",
            code="missing_api_key",
        )
    return key.strip()


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else "req_" + secrets.token_hex(12)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive() that gives the body once, then whatever the server says (such as a disconnect)."""
    is_given = False

    async def replayed() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
