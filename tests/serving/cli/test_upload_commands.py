"""`darkroom uploads` over a socket against the true routes; S3 is a fake that takes what its URLs allow."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.serving.api.conftest import picture_bytes
from tests.serving.cli.true_server import Wires, darkroom
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, on_a_port

PART_BYTES = 5_242_880
PICTURE = picture_bytes(300, 260)


@pytest_asyncio.fixture
async def house(houses: OpenHouse) -> House:
    return await houses(sweeps=False, uploads={"part_bytes": PART_BYTES, "multipart_above_bytes": PART_BYTES})


@pytest_asyncio.fixture
async def address(house: House) -> AsyncIterator[str]:
    async with on_a_port(house.app) as url:
        yield url


async def test_a_picture_is_added_listed_shown_and_deleted(house: House, address: str) -> None:
    write("apple.png", PICTURE)
    added = await darkroom(house, address, "uploads", "add", "apple.png")
    assert added.exit_code == 0, added.stderr
    upload_id = added.stdout.strip()
    listed = (await darkroom(house, address, "uploads", "list", "--purpose", "image")).stdout.rstrip("\n").split("\t")
    assert listed[:4] == [upload_id, "image", "ready", str(len(PICTURE))]
    assert listed[5:] == ["300x260", "apple.png"]
    told = (await darkroom(house, address, "uploads", "show", upload_id)).stdout
    shown = dict(line.split("\t", 1) for line in told.splitlines())
    assert (shown["status"], shown["media.width"], shown["content_type"]) == ("ready", "300", "image/png")
    deleted = await darkroom(house, address, "uploads", "delete", upload_id)
    assert (deleted.exit_code, deleted.stdout) == (0, "")
    assert "deleted" in deleted.stderr
    assert house.blobs.keys == []
    assert (await darkroom(house, address, "uploads", "show", upload_id)).exit_code == 1


async def test_what_the_server_refuses_is_told_in_its_words(house: House, address: str) -> None:
    write("film.mp4", b"Dear all, this is not a video.")
    refused = await darkroom(house, address, "uploads", "add", "film.mp4")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "the file is text" in refused.stderr


async def test_a_large_file_goes_in_parts_and_what_broke_off_is_sent_again(house: House, address: str) -> None:
    """It is no video, but that is found out when all of it has arrived."""
    num_bytes = PART_BYTES + 1_000_000
    write("film.mp4", (b"text " * num_bytes)[:num_bytes])
    wires = Wires(house.blobs, troubles=(503,))
    refused = await darkroom(house, address, "uploads", "add", "film.mp4", wires=wires)
    assert "the file is text" in refused.stderr
    assert wires.sent == [PART_BYTES, PART_BYTES, num_bytes - PART_BYTES], "the first part twice"


async def test_a_file_without_an_ending_or_that_is_not_there_is_told(house: House, address: str) -> None:
    write("film", b"x")
    for name, says in (("film", "no ending"), ("none.mp4", "cannot be read")):
        result = await darkroom(house, address, "uploads", "add", name)
        assert result.exit_code == 1
        assert says in result.stderr


async def test_a_deletion_prints_what_was_made(house: House, address: str) -> None:
    write("apple.png", picture_bytes(300, 300))
    upload_id = (await darkroom(house, address, "uploads", "add", "apple.png")).stdout.strip()
    await house.services.uploads.note_use("alice", upload_id, kind="lora", id="alice-style@1")
    deleted = await darkroom(house, address, "uploads", "delete", upload_id)
    assert deleted.stdout == "lora\talice-style@1\n"


def write(name: str, data: bytes) -> None:
    """Where the command is called."""
    Path(name).write_bytes(data)
