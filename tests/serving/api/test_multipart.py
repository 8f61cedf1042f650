"""Bodies with files: let in on the routes that take them, counted and timed, and never before the key."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.serving.api.conftest import EDITS, NATIVE, OPENAI, assert_error, picture_bytes
from tests.serving.conftest import OpenHouse
from tests.serving.house import House

GOOD_FORM: dict[str, str] = {"prompt": "a red apple", "num_inference_steps": "2", "seed": "7"}


@pytest.mark.parametrize("path", [EDITS, "/v1/loras/import"])
@pytest.mark.parametrize("content_type", [None, "application/json", "application/x-www-form-urlencoded", "text/plain"])
async def test_what_is_no_form_is_refused_with_what_is_expected(
    shared: House, path: str, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    message = assert_error(await shared.alice.post(path, content=b"{}", headers=headers), 415)
    assert "multipart/form-data" in message


@pytest.mark.parametrize("path", [OPENAI, NATIVE, "/v1/admin/keys", f"{EDITS}/", "/v1/none"])
async def test_a_form_is_refused_everywhere_else(shared: House, path: str) -> None:
    answer = await shared.alice.post(path, data=GOOD_FORM, files={"image": picture_bytes()})
    assert "application/json" in assert_error(answer, 415)


async def test_without_a_key_nothing_of_a_form_is_parsed(shared: House) -> None:
    headers = {"Content-Type": "multipart/form-data"}  # no boundary: whoever parses it finds that first
    assert_error(await shared.anonymous.post(EDITS, content=b"x" * 100_000, headers=headers), 401)


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"--b\r\n", "multipart/form-data"),
        (b"", "multipart/form-data; boundary=b"),
        (b"no boundary in here", "multipart/form-data; boundary=b"),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b"),
        (b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nunended', "multipart/form-data; boundary=b"),
        (b"--b\r\n\xff\xfe: \x00\r\n\r\n\r\n--b--\r\n", "multipart/form-data; boundary=b"),
    ],
)
async def test_a_broken_form_is_bad_input(shared: House, content: bytes, content_type: str) -> None:
    assert_error(await shared.alice.post(EDITS, content=content, headers={"Content-Type": content_type}), 400)


async def test_a_form_over_the_limit_is_refused_by_what_it_declares_and_by_what_it_sends(houses: OpenHouse) -> None:
    house = await houses(api={"max_upload_bytes": 20_000})
    too_much = {"image": picture_bytes() + b"x" * 20_000}
    assert_error(await house.alice.post(EDITS, data=GOOD_FORM, files=too_much), 413, code="body_too_large")

    async def undeclared() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        for _ in range(40):
            yield b"x" * 1_000

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert_error(await house.alice.post(EDITS, content=undeclared(), headers=headers), 413, code="body_too_large")
    fits = await house.alice.post(EDITS, data=GOOD_FORM, files={"image": picture_bytes()})
    assert fits.status_code == 200


async def test_a_form_that_does_not_end_is_refused_at_its_deadline(houses: OpenHouse) -> None:
    house = await houses(api={"body_deadline_s": 0.2})

    async def stalled() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n'
        await asyncio.sleep(30)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = await asyncio.wait_for(house.alice.post(EDITS, content=stalled(), headers=headers), 10)
    assert_error(answer, 408, code="body_timeout")


@pytest.mark.parametrize(
    ("data", "files"),
    [
        ({f"field{number}": "x" for number in range(65)}, {"image": picture_bytes()}),
        (GOOD_FORM, [("image", (f"{number}.png", b"x")) for number in range(21)]),
        ({**GOOD_FORM, "prompt": "x" * 1_100_000}, {"image": picture_bytes()}),
    ],
)
async def test_a_form_with_too_many_or_too_large_parts_is_refused(shared: House, data: Any, files: Any) -> None:
    assert_error(await shared.alice.post(EDITS, data=data, files=files), 400)
