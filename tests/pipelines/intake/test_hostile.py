"""Hostile files: each is refused in clear words or gives a right result, and nothing else is opened, called or left."""

import asyncio
import json
import os
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import av
import psutil
import pytest

from configs.settings import PROJECT_DIR, FrameSettings
from pipelines.frames.candidates import Survey
from pipelines.frames.orders import SURVEY_WORK, SurveyOrder
from pipelines.sandbox import Bounds, WorkRefused, run_apart

NUM_KINDS, NUM_IN_ALL = 60, 300
NUM_AT_ONCE = 2
BOUNDS = Bounds(wall_s=60, memory_bytes=1_000_000_000, file_bytes=100_000_000)
MAX_VIDEO_S, MAX_VIDEO_PX = 3_600.0, 8_912_896
LIMITS = {
    "min_image_px": 256,
    "max_image_px": 4_096,
    "thumbnail_px": 512,
    "max_video_s": MAX_VIDEO_S,
    "max_video_px": MAX_VIDEO_PX,
}
CODES = {
    *("bad_image", "image_too_large", "image_too_small", "animated_image", "type_mismatch", "empty_file"),
    *("not_a_video", "unsupported_video", "truncated", "damaged", "too_long", "too_many_pixels"),
}
CARELESS = {"protocol_whitelist": "file,http,tcp", "allowed_extensions": "ALL", "extension_picky": "0", "safe": "0"}


@dataclass(frozen=True)
class Reader:
    """Somebody who opens what clients send."""

    purposes: frozenset[str]  # of the files that it is given
    read: Callable[[Path, str, Path], Awaitable[dict[str, Any]]]  # a file, its purpose, a folder for what it makes
    fault: Callable[[dict[str, Any], Path], str | None]  # what is wrong with a result and what lies in the folder


async def look(path: Path, purpose: str, folder: Path) -> dict[str, Any]:
    arguments = {"path": str(path), "folder": str(folder), "purpose": purpose, "limits": LIMITS}
    return await run_apart("pipelines.intake.look:look", arguments, bounds=BOUNDS)


def fault_of_look(result: dict[str, Any], folder: Path) -> str | None:
    media, left = result["media"], {str(path) for path in folder.iterdir()}
    width_px, height_px = media["width"], media["height"]
    if media["kind"] == "video":
        is_right = 0 < width_px * height_px <= MAX_VIDEO_PX and 0 <= media["duration_s"] <= MAX_VIDEO_S
        made = set()
    else:
        is_right = 256 <= min(width_px, height_px) <= max(width_px, height_px) <= 4_096
        made = {result["cleaned"], result["thumbnail"]}
    if left != made:
        return f"in its folder is {left}, not {made}"
    return None if is_right else f"beyond the limits: {media}"


async def look_and_survey(path: Path, purpose: str, folder: Path) -> dict[str, Any]:
    """As the server does: stills are taken of nothing that was not looked at before."""
    await look(path, purpose, folder)
    order = SurveyOrder.of(path, folder, FrameSettings(max_surveyed=200))
    try:
        return await run_apart(SURVEY_WORK, order.to_dict(), bounds=replace(BOUNDS, memory_bytes=2_000_000_000))
    except WorkRefused:
        await asyncio.to_thread(_empty, folder)  # what was seen before the damage goes with the folder
        raise


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def fault_of_survey(result: dict[str, Any], folder: Path) -> str | None:
    survey, left = Survey.from_dict(result), {path.name for path in folder.iterdir()}
    if left != (made := {candidate.thumbnail for candidate in survey.candidates}):
        return f"in its folder is {left}, not {made}"
    return None if survey.candidates else "nothing was found, and nobody said so"


READERS = {
    "look": Reader(frozenset({"image", "video"}), look, fault_of_look),
    "survey": Reader(frozenset({"video"}), look_and_survey, fault_of_survey),
}


@dataclass
class Hostiles:
    """The files, and the port that some of them point to."""

    folder: Path
    files: list[dict[str, str]]
    server: socket.socket

    def was_called(self) -> bool:
        """Since it was last asked."""
        try:
            self.server.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@pytest.fixture(scope="module")
def hostiles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostiles]:
    """One of each kind."""
    with make_hostiles(tmp_path_factory.mktemp("hostile"), NUM_KINDS) as hostiles:
        assert len({file["kind"] for file in hostiles.files}) == NUM_KINDS
        yield hostiles


@contextmanager
def make_hostiles(folder: Path, count: int) -> Iterator[Hostiles]:
    sys.path.insert(0, str(PROJECT_DIR / "scripts"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        import_module("hostile_files").main([str(folder), "--count", str(count), "--port", str(port)])
        yield Hostiles(folder, json.loads((folder / "manifest.json").read_text())["files"], server)
    sys.path.remove(str(PROJECT_DIR / "scripts"))


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> Reader:
    return READERS[request.param]


async def complaints(hostiles: Hostiles, reader: Reader, tmp_path: Path) -> dict[str, str]:
    """What is wrong with how each file was received, by its name."""
    places = asyncio.Semaphore(NUM_AT_ONCE)

    async def complain(file: dict[str, str]) -> str | None:
        folder = tmp_path / file["name"]
        folder.mkdir()
        async with places:
            return await complaint(reader, hostiles.folder / file["name"], file, folder)

    files = [file for file in hostiles.files if file["purpose"] in reader.purposes]
    found = await asyncio.gather(*(complain(file) for file in files))
    return {file["name"]: words for file, words in zip(files, found, strict=True) if words is not None}


async def complaint(reader: Reader, path: Path, file: dict[str, str], folder: Path) -> str | None:
    try:
        result = await reader.read(path, file["purpose"], folder)
    except WorkRefused as refused:
        if refused.code not in CODES or not str(refused).endswith(".") or "root:" in str(refused):
            return f"unclear words: {refused.code}: {refused}"
        return f"refused, but left {left}" if (left := os.listdir(folder)) else None
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told with the file's name
        return f"{type(error).__name__}: {error}"
    if file["must"] == "refused":
        return f"accepted as {result}"
    return "it let out what another file holds" if "root:" in str(result) else reader.fault(result, folder)


async def check(hostiles: Hostiles, reader: Reader, tmp_path: Path) -> None:
    processes = set(psutil.Process().children(recursive=True))
    assert await complaints(hostiles, reader, tmp_path) == {}
    assert not hostiles.was_called(), "something that a file names was called"
    assert set(psutil.Process().children(recursive=True)) <= processes


async def test_one_hostile_file_of_each_kind_is_refused_or_read_right(
    hostiles: Hostiles, reader: Reader, tmp_path: Path
) -> None:
    await check(hostiles, reader, tmp_path)


@pytest.mark.slow
async def test_three_hundred_hostile_files_are_refused_or_read_right(
    reader: Reader, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with make_hostiles(tmp_path_factory.mktemp("hostile"), NUM_IN_ALL) as hostiles:
        assert len(hostiles.files) == NUM_IN_ALL
        await check(hostiles, reader, tmp_path)


async def test_a_careless_reader_would_have_called(hostiles: Hostiles) -> None:
    for kind, demuxer in (("HLS playlist", "hls"), ("list of other files", "concat")):
        name = next(file["name"] for file in hostiles.files if file["kind"] == kind)
        with pytest.raises(av.FFmpegError):
            await asyncio.to_thread(av.open, str(hostiles.folder / name), format=demuxer, options=CARELESS, timeout=1.0)
        assert hostiles.was_called(), kind


async def test_a_complaint_is_heard_where_something_is_wrong(hostiles: Hostiles, tmp_path: Path) -> None:
    async def believe_everything(_path: Path, _purpose: str, folder: Path) -> dict[str, Any]:
        (folder / "left").write_text("behind")
        return {"media": {"kind": "video", "width": 1, "height": 1, "duration_s": 1.0}}

    reader = Reader(frozenset({"image", "video"}), believe_everything, fault_of_look)
    assert len(await complaints(hostiles, reader, tmp_path)) == NUM_KINDS
