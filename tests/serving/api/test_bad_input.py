"""Bad input, one test each: its status, OpenAI's error body, a request id, and the next request as before."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.serving.api.conftest import GOOD, NATIVE, OPENAI, assert_error
from tests.serving.house import House

SEMANTIC = (400, 400)  # the values are checked by submission, the same for both routes
SCHEMA = (400, 422)  # the types are checked by the schema: OpenAI's routes say 400, ours 422
MIB = 1024 * 1024
pytestmark = pytest.mark.usefixtures("the_next_request_is_answered_as_before")
both_routes = pytest.mark.parametrize("route", [OPENAI, NATIVE])


# field, value, (status on the OpenAI route, on ours), part of the message
FIELDS: list[tuple[str, Any, tuple[int, int], str]] = [
    ("prompt", "", SEMANTIC, "must not be empty"),
    ("prompt", " \t\n ", SEMANTIC, "must not be empty"),
    ("prompt", "x" * 40_000, SEMANTIC, "at most 4000"),
    ("prompt", "a\x00b", SEMANTIC, "U+0000"),
    ("prompt", "a\x1b[31mb", SEMANTIC, "U+001B"),
    ("prompt", "\ud800", SEMANTIC, "U+D800"),
    ("prompt", None, SCHEMA, "prompt"),
    ("prompt", 7, SCHEMA, "prompt"),
    ("prompt", ["a"], SCHEMA, "prompt"),
    ("n", 0, SEMANTIC, "from 1 to 10"),
    ("n", 11, SEMANTIC, "from 1 to 10"),
    ("n", "2", SCHEMA, "n: "),
    ("n", True, SCHEMA, "n: "),
    ("n", 2.5, SCHEMA, "n: "),
    ("n", 2.0, SCHEMA, "n: "),
    ("n", 10**400, SEMANTIC, "from 1 to 10"),
    ("size", "0", SEMANTIC, "multiples of 8"),
    ("size", "7", SEMANTIC, "multiples of 8"),
    ("size", "100000", SEMANTIC, "from 64 to 256 px"),
    ("size", "axb", SEMANTIC, "for example 128x128"),
    ("size", "0x0", SEMANTIC, "from 64 to 256 px"),
    ("size", "65x64", SEMANTIC, "multiples of 8"),
    ("size", "", SEMANTIC, "multiples of 8"),
    ("size", 64, SCHEMA, "size"),
    ("num_inference_steps", 0, SEMANTIC, "from 1 to 100"),
    ("num_inference_steps", 10_000, SEMANTIC, "from 1 to 100"),
    ("num_inference_steps", -1, SEMANTIC, "from 1 to 100"),
    ("num_inference_steps", "20", SCHEMA, "num_inference_steps"),
    ("guidance_scale", "3", SCHEMA, "guidance_scale"),
    ("guidance_scale", -1, SEMANTIC, "from 0 to 20"),
    ("guidance_scale", 1_000, SEMANTIC, "from 0 to 20"),
    ("guidance_scale", True, SCHEMA, "guidance_scale"),
    ("seed", -1, SEMANTIC, "seed"),
    ("seed", 2**63, SEMANTIC, "seed"),
    ("seed", 1.5, SCHEMA, "seed"),
    ("scheduler", "nonesuch", SEMANTIC, "emoji-3d has: "),
    ("output_format", "gif", SCHEMA, "output_format"),
    ("output_compression", 101, SEMANTIC, "from 0 to 100"),
    ("priority", "urgent", SCHEMA, "priority"),
    ("metadata", {"a": 1}, SCHEMA, "metadata"),
    ("metadata", {"\ud800": "x"}, SEMANTIC, "metadata"),
    ("metadata", {"a": "\ud800"}, SEMANTIC, "U+D800"),
    ("metadata", ["a"], SCHEMA, "metadata"),
    ("loras", [{"name": "alice-style@2"}], (404, 404), "alice-style@2"),
    ("loras", [{"name": "a", "scale": 10**400}], SCHEMA, "loras"),
    ("webhook_url", "ftp://example.org/hook", SEMANTIC, "http"),
    ("webhook_url", "http://127.0.0.1/hook", SEMANTIC, "public address"),
    ("webhook_url", "http://[::ffff:10.0.0.1]/hook", SEMANTIC, "public address"),
    ("webhook_url", "https://example.org/" + "x" * 2_048, SCHEMA, "webhook_url"),
    ("expires_in_s", 0.5, SEMANTIC, "1 to 86400"),
    ("expires_in_s", 86_401, SEMANTIC, "1 to 86400"),
    ("expires_in_s", "60", SCHEMA, "expires_in_s"),
    ("model", "nonesuch", (404, 404), "Available: emoji-3d, flux-schnell"),
    ("model", "", (404, 404), "Available: emoji-3d, flux-schnell"),
    ("model", "\ud800", SCHEMA, "model"),
    ("scheduler", "\ud800", SCHEMA, "scheduler"),
    ("model", "x" * 10_000, SCHEMA, "model"),
    ("model", 3, SCHEMA, "model"),
]


@both_routes
@pytest.mark.parametrize(("field", "value", "statuses", "told"), FIELDS)
async def test_a_field_that_cannot_be(
    shared: House, route: str, field: str, value: Any, statuses: tuple[int, int], told: str
) -> None:
    body = json.dumps({**GOOD, field: value}).encode()
    answer = await shared.alice.post(route, content=body, headers={"Content-Type": "application/json"})
    message = assert_error(answer, statuses[route == NATIVE])
    assert told in message
    assert answer.json()["error"]["param"].split(".")[0] == field
    assert answer.json()["error"]["type"] == "invalid_request_error"


# What the JSON says that Python's json.dumps would not.
@both_routes
@pytest.mark.parametrize(
    ("number", "statuses", "code"),
    [
        ("NaN", (400, 400), "invalid_json"),
        ("Infinity", (400, 400), "invalid_json"),
        ("-Infinity", (400, 400), "invalid_json"),
        ("1e999", (400, 400), "invalid_value"),
        ("9" * 400, SCHEMA, "invalid_value"),
        ("9" * 5_000, (400, 400), "invalid_json"),
        ("0x10", (400, 400), "invalid_json"),
        (".5", (400, 400), "invalid_json"),
    ],
)
async def test_guidance_that_is_no_number(
    shared: House, route: str, number: str, statuses: tuple[int, int], code: str
) -> None:
    body = f'{{"prompt": "a red apple", "guidance_scale": {number}}}'
    answer = await shared.alice.post(route, content=body, headers={"Content-Type": "application/json"})
    assert_error(answer, statuses[route == NATIVE], code=code)


# The form of the body, before any field of it: body, content type, status, code.
FORMS: list[tuple[str, bytes, str | None, tuple[int, int], str]] = [
    ("broken", b'{"prompt": "a red apple"', "application/json", (400, 400), "invalid_json"),
    ("trailing", b'{"prompt": "a"} x', "application/json", (400, 400), "invalid_json"),
    ("single quotes", b"{'prompt': 'a'}", "application/json", (400, 400), "invalid_json"),
    ("array", b'[{"prompt": "a red apple"}]', "application/json", (400, 400), "invalid_json"),
    ("string", b'"a red apple"', "application/json", (400, 400), "invalid_json"),
    ("null", b"null", "application/json", (400, 400), "invalid_json"),
    ("blank", b"   ", "application/json", (400, 400), "invalid_json"),
    ("not utf-8", b'{"prompt": "\xff\xfe"}', "application/json", (400, 400), "invalid_json"),
    ("utf-16", '{"prompt": "a"}'.encode("utf-16"), "application/json", (400, 400), "invalid_json"),
    (
        "deep lists",
        b'{"prompt": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        "application/json",
        (400, 400),
        "json_too_deep",
    ),
    ("deep objects", b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "application/json", (400, 400), "json_too_deep"),
    ("deep and broken", b"[" * 10_000, "application/json", (400, 400), "json_too_deep"),
    ("wrong type", b'{"prompt": "a"}', "text/plain", (415, 415), "unsupported_content_type"),
    ("form", b"prompt=a", "application/x-www-form-urlencoded", (415, 415), "unsupported_content_type"),
    ("no type", b'{"prompt": "a"}', None, (415, 415), "unsupported_content_type"),
    ("no body", b"", "application/json", SCHEMA, "invalid_value"),
    ("no body, no type", b"", None, SCHEMA, "invalid_value"),
    ("empty object", b"{}", "application/json", SCHEMA, "invalid_value"),
]


@both_routes
@pytest.mark.parametrize(
    ("body", "content_type", "statuses", "code"), [form[1:] for form in FORMS], ids=[f[0] for f in FORMS]
)
async def test_a_body_of_the_wrong_form(
    shared: House, route: str, body: bytes, content_type: str | None, statuses: tuple[int, int], code: str
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    assert_error(await shared.alice.post(route, content=body, headers=headers), statuses[route == NATIVE], code=code)


@pytest.mark.parametrize("name", ["\ud800", "x" * 100_000, "\x00", "prompt\n"])
async def test_an_unknown_field_with_a_nasty_name(shared: House, name: str) -> None:
    body = json.dumps({**GOOD, name: 1}).encode()
    answer = await shared.alice.post(NATIVE, content=body, headers={"Content-Type": "application/json"})
    assert_error(answer, 422)
    assert (await shared.alice.post(OPENAI, content=body, headers={"Content-Type": "application/json"})).is_success


@both_routes
@pytest.mark.parametrize("declares_length", [True, False])
@pytest.mark.parametrize("key", ["good", "wrong"])
async def test_a_body_of_50_mb(shared: House, route: str, declares_length: bool, key: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b"x" * MIB

    headers = {"Content-Type": "application/json"} | ({"Content-Length": str(50 * MIB)} if declares_length else {})
    if key == "wrong":
        headers["Authorization"] = "Bearer dk-wrong"
    answer = await shared.alice.post(route, content=chunks(), headers=headers)
    assert_error(answer, *((413,) if key == "good" else (401,)))


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", OPENAI, "POST"), ("GET", NATIVE, "POST"), ("DELETE", "/v1/jobs", "GET"), ("POST", "/health", "GET")],
)
async def test_a_method_that_the_route_does_not_have(shared: House, method: str, path: str, allowed: str) -> None:
    answer = await shared.alice.request(method, path)
    assert_error(answer, 405, code="method_not_allowed")
    assert allowed in answer.headers["Allow"]


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/none", "/v2/images", "/v1/images/generations/x", "/../etc/passwd", "/ü"]
)
async def test_a_url_that_does_not_exist(shared: House, path: str) -> None:
    assert_error(await shared.alice.get(path), 404, code="unknown_url")


@both_routes
async def test_null_is_the_same_as_leaving_a_field_out(shared: House, route: str) -> None:
    fields = ["model", "n", "negative_prompt", "num_inference_steps", "guidance_scale", "scheduler", "loras",
              "output_format", "output_compression", "priority", "metadata", "webhook_url",
              "expires_in_s"]  # fmt: skip
    if route == OPENAI:
        fields += ["response_format", "background", "quality", "moderation", "stream", "partial_images", "user"]
    answer = await shared.alice.post(
        route, json={**dict.fromkeys(fields), "prompt": "a red apple", "size": None, "seed": None}
    )
    assert answer.is_success, answer.text


@pytest.mark.parametrize("partial_images", [-1, 4, "2", 1.5])
async def test_partial_images_outside_their_limits_are_refused(shared: House, partial_images: object) -> None:
    body = {**GOOD, "stream": True, "partial_images": partial_images}
    assert_error(await shared.alice.post(OPENAI, json=body), 400, param="partial_images")


async def test_stream_is_unknown_on_our_own_route(shared: House) -> None:
    assert_error(await shared.alice.post(NATIVE, json={**GOOD, "stream": True}), 422, param="stream")


async def test_a_transparent_background_is_refused(shared: House) -> None:
    assert_error(await shared.alice.post(OPENAI, json={**GOOD, "background": "transparent"}), 400, param="background")


async def test_nothing_of_a_refused_request_was_stored(shared: House) -> None:
    for route, wrong in ((OPENAI, {"n": 0}), (NATIVE, {"n": "2"}), (NATIVE, {"webhook_url": "https://10.0.0.1"})):
        assert not (await shared.bob.post(route, json={**GOOD, **wrong})).is_success
    assert (await shared.bob.get("/v1/jobs")).json()["data"] == []
