"""The gatekeeper: keys before anything else, bodies measured in one pass, request ids kept or made."""

import asyncio
import json
import time
from typing import Any

import pytest

from serving.api.gatekeeper import check_json
from serving.errors import BadInput
from tests.serving.api.conftest import GOOD, NATIVE, OPENAI, assert_error
from tests.serving.conftest import OpenHouse
from tests.serving.house import House

pytestmark = pytest.mark.usefixtures("the_next_request_is_answered_as_before")
MIB = 1024 * 1024


@pytest.mark.parametrize("length", ["-1", "abc", "\xb2", "9" * 30])
async def test_a_content_length_that_is_none(shared: House, length: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Length": length.encode("latin-1")}
    answer = await shared.alice.post(OPENAI, content=json.dumps(GOOD).encode(), headers=headers)
    assert answer.status_code in {200, 413}


async def test_a_body_whose_last_piece_is_the_one_too_many_is_answered_at_once(shared: House) -> None:
    """The server gives body and end in one message; nothing comes after it but the client's hanging up."""
    sent: list[dict[str, Any]] = []
    messages = [{"type": "http.request", "body": b"x" * 9 * MIB, "more_body": False}]

    async def receive() -> dict[str, Any]:
        assert messages, "nobody may wait for more: it would be for ever"
        return messages.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [
        (b"authorization", shared.alice.headers["Authorization"].encode()),
        (b"content-type", b"application/json"),
    ]
    scope = {"type": "http", "method": "POST", "path": OPENAI, "headers": headers, "query_string": b""}
    await shared.app(scope, receive, send)
    assert sent[0]["status"] == 413


async def test_a_client_that_never_sends_its_body_is_not_waited_for(houses: OpenHouse) -> None:
    house = await houses(api={"body_deadline_s": 0.2})
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        raise AssertionError("the deadline comes first")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"authorization", house.alice.headers["Authorization"].encode()), (b"content-length", b"100")]
    scope = {"type": "http", "method": "POST", "path": OPENAI, "headers": headers, "query_string": b""}
    await house.app(scope, receive, send)
    assert sent[0]["status"] == 408


@pytest.mark.parametrize("text", ['{"a": ' + '"' + '\\"' * 2 * MIB, '"\n' * MIB, "[]" * MIB, "\\" * 4 * MIB])
def test_checking_a_body_takes_time_in_proportion_to_its_length(text: str) -> None:
    started = time.perf_counter()
    with pytest.raises(BadInput):
        check_json(text.encode(), max_depth=32)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("text", ['{"a": "[[[["}', '{"a": "\\"[[[["}', '{"a": "\\\\"}', '{"a": [[[]]]}'])
def test_brackets_in_strings_are_no_depth(text: str) -> None:
    check_json(text.encode(), max_depth=4)


AUTHORIZATIONS = [
    None,
    "",
    "Bearer",
    "Bearer ",
    "dk-x",
    "Basic ZGs6eA==",
    "Bearer dk-wrong",
    "bearer dk-wrong",
    "Bearer \xfc",
]


@pytest.mark.parametrize("authorization", AUTHORIZATIONS)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", OPENAI), ("POST", NATIVE), ("GET", "/v1/jobs"), ("GET", "/v1/none"), ("PUT", "/v1/x")]
)
async def test_no_key_and_a_wrong_key(shared: House, authorization: str | None, method: str, path: str) -> None:
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    answer = await shared.anonymous.request(method, path, content=b"{" * 99, headers=headers)
    looks_like_a_key = bool(authorization) and authorization.lower().startswith("bearer ") and len(authorization) > 7
    assert_error(answer, 401, code="invalid_api_key" if looks_like_a_key else "missing_api_key")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("given", ["req-1", "a", "A.b:c_d-9", "x" * 128])
async def test_a_clients_own_request_id_is_kept(shared: House, given: str) -> None:
    for answer in (
        await shared.alice.get("/v1/jobs", headers={"X-Request-Id": given}),
        await shared.anonymous.get("/v1/jobs", headers={"X-Request-Id": given}),
        await shared.anonymous.get("/health", headers={"X-Request-Id": given}),
    ):
        assert answer.headers.get_list("X-Request-Id") == [given]


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\tb", "<script>", "a/b", "\xfc", "a\x7f"])
async def test_a_nasty_request_id_is_replaced(shared: House, given: str) -> None:
    answer = await shared.alice.get("/v1/jobs", headers={"X-Request-Id": given.encode("latin-1")})
    (request_id,) = answer.headers.get_list("X-Request-Id")
    assert request_id.startswith("req_")
    assert len(request_id) == 28
