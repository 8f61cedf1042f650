"""Seeds of trouble, sent through the routes: each is refused in clear words, and nothing of it stays anywhere."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clips import make_clip
from tests.pipelines.intake.pictures import png_header
from tests.pipelines.intake.test_hostile import NUM_KINDS, make_hostiles
from tests.serving.api.conftest import assert_error, picture_bytes
from tests.serving.house import House
from tests.uploads import UPLOADS, completed

PLAYLIST = b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:10,\nhttp://127.0.0.1:1/secret.ts\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
CONCAT = b"ffconcat version 1.0\nfile /etc/passwd\nfile http://127.0.0.1:1/x.mp4\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><image href="file:///etc/passwd"/></svg>'


def clip(folder: Path) -> bytes:
    return make_clip(folder / "clip.mp4", seconds=1.0).path.read_bytes()


def without_its_index(folder: Path) -> bytes:
    """The index of such a file stands at its end."""
    data = clip(folder)
    return data[: data.index(b"moov") - 4]


def of_ten_hours(folder: Path) -> bytes:
    """Every length that its headers state is ten hours; its frames are those of a second."""
    data = bytearray(clip(folder))
    scales = {}
    for box in (b"mvhd", b"mdhd"):
        at = data.index(box)
        scales[box] = struct.unpack_from(">I", data, at + 16)[0]
        struct.pack_into(">I", data, at + 20, scales[box] * 36_000)
    for box, offset in ((b"tkhd", 24), (b"elst", 12)):
        struct.pack_into(">I", data, data.index(box) + offset, scales[b"mvhd"] * 36_000)
    at = data.index(b"stts")
    num_frames = struct.unpack_from(">I", data, at + 12)[0]
    struct.pack_into(">I", data, at + 16, scales[b"mdhd"] * 36_000 // num_frames)
    return bytes(data)


def zip_bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(50_000_000))
    return out.getvalue()


def png_bomb() -> bytes:
    """4096 x 4096 px are allowed; that its text unfolds to 200 MB is not for us to find out."""
    picture = picture_bytes(300, 300)
    body = b"Comment\x00\x00" + zlib.compress(bytes(200_000_000), 9)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    return picture[:33] + chunk + picture[33:]


Make = Callable[[Path], bytes]
SEEDS: dict[str, tuple[Make, str, str, str]] = {
    "text named .mp4": (lambda _: b"Dear all, this is not a video.", "video/mp4", "video", "not_a_video"),
    "truncated, index at the end": (without_its_index, "video/mp4", "video", "truncated"),
    "ten hours long": (of_ten_hours, "video/mp4", "video", "too_long"),
    "playlist": (lambda _: PLAYLIST, "video/mp4", "video", "not_a_video"),
    "playlist said to be a transport stream": (lambda _: PLAYLIST, "video/mp2t", "video", "not_a_video"),
    "concat list": (lambda _: CONCAT, "video/mp4", "video", "not_a_video"),
    "zip bomb as a video": (lambda _: zip_bomb(), "video/mp4", "video", "not_a_video"),
    "zip bomb as a picture": (lambda _: zip_bomb(), "image/png", "image", "bad_image"),
    "picture of 100,000 x 100,000 px": (
        lambda _: png_header(100_000, 100_000),
        "image/png",
        "image",
        "image_too_large",
    ),
    "svg": (lambda _: SVG, "image/png", "image", "bad_image"),
    "picture as a video": (lambda _: picture_bytes(300, 300), "video/mp4", "video", "type_mismatch"),
    "video as a picture": (clip, "image/png", "image", "type_mismatch"),
    "png called jpeg": (lambda _: picture_bytes(300, 300), "image/jpeg", "image", "type_mismatch"),
    "mp4 called matroska": (clip, "video/webm", "video", "type_mismatch"),
    "too small": (lambda _: picture_bytes(255, 300), "image/png", "image", "image_too_small"),
}


@pytest.mark.parametrize("name", SEEDS)
async def test_what_means_trouble_is_refused_and_leaves_nothing(shared: House, tmp_path: Path, name: str) -> None:
    make, content_type, purpose, code = SEEDS[name]
    before = shared.blobs.keys
    answer = await completed(shared.alice, shared.blobs, make(tmp_path), content_type, purpose)
    assert_error(answer, 422, code=code)
    assert shared.blobs.keys == before
    assert shared.frames.left_behind == []
    newest = (await shared.alice.get(f"{UPLOADS}?limit=1")).json()["data"][0]
    again = await shared.alice.post(f"{UPLOADS}/{newest['id']}/complete")
    assert again.json()["error"] == answer.json()["error"] == newest["error"]


async def test_a_good_video_comes_through_byte_for_byte(shared: House, tmp_path: Path) -> None:
    data = clip(tmp_path)
    answer = await completed(shared.alice, shared.blobs, data, "video/mp4", "video")
    ready = answer.json()
    assert answer.status_code == 200, answer.text
    assert ready["media"]["kind"] == "video"
    assert (ready["media"]["width"], ready["media"]["height"]) == (160, 96)
    assert ready["media"]["duration_s"] == pytest.approx(1.0, abs=0.05)
    assert {"fps", "rotation", "codec"} <= set(ready["media"])
    assert shared.blobs.open_url(ready["url"]) == data
    assert (ready["thumbnail_url"], ready["is_nsfw"], ready["nsfw_score"]) == (None, None, None)


async def test_of_a_polyglot_only_the_picture_is_kept(shared: House) -> None:
    """A picture that is a zip archive and a web page as well."""
    data = picture_bytes(300, 300) + b"<html><script>alert(1)</script></html>" + zip_bomb()
    ready = (await completed(shared.alice, shared.blobs, data, "image/png", "image")).json()
    kept = shared.blobs.open_url(ready["url"])
    assert kept.startswith(b"\x89PNG")
    assert b"<script>" not in kept
    assert b"PK\x03\x04" not in kept


async def test_a_picture_whose_text_is_a_bomb_is_taken_without_it(shared: House) -> None:
    answer = await completed(shared.alice, shared.blobs, png_bomb(), "image/png", "image")
    assert answer.status_code == 200, answer.text
    assert len(shared.blobs.open_url(answer.json()["url"])) < 10_000


async def test_a_video_longer_than_its_tenant_may_send_is_refused(shared: House, tmp_path: Path) -> None:
    data = make_clip(tmp_path / "clip.mp4", seconds=3.0).path.read_bytes()
    changed = await shared.operator.patch("/v1/admin/tenants/bob", json={"max_video_s": 2.0})
    assert changed.status_code == 200
    assert_error(await completed(shared.bob, shared.blobs, data, "video/mp4", "video"), 422, code="too_long")
    assert (await completed(shared.alice, shared.blobs, data, "video/mp4", "video")).status_code == 200


async def test_a_hostile_file_of_each_kind_gets_a_clear_answer_and_leaves_nothing_in_temp(
    shared: House, tmp_path: Path
) -> None:
    with make_hostiles(tmp_path, NUM_KINDS) as hostiles:
        for file in hostiles.files:
            data = (hostiles.folder / file["name"]).read_bytes()
            form = {"file": (file["name"], data, "application/octet-stream")}
            answer = await shared.alice.post(f"{UPLOADS}/direct", files=form, data={"purpose": file["purpose"]})
            if answer.status_code != 201:
                assert answer.status_code in {400, 413, 422}, (file, answer.text)
                assert_error(answer, answer.status_code)
            assert answer.status_code != 201 or file["must"] == "either", file
            assert [key for key in shared.blobs.keys if key.startswith("temp/")] == [], file
        assert not hostiles.was_called()
    assert shared.frames.left_behind == []
