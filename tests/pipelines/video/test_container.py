"""A video opens itself and nothing else, whatever it refers to."""

import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.video import container
from pipelines.video.container import open_container
from pipelines.video.info import VideoError
from pipelines.video.probing import probe
from tests.clips import make_clip
from tests.pipelines.video.test_probing import LIMITS

PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref")


def referring_elsewhere(path: Path, name: str) -> Path:
    """The MP4 with its pictures said to be in the file `name` beside it: QuickTime's alias, in place of "here"."""
    data = bytearray(make_clip(path).path.read_bytes())
    here = data.index(b"url ") - 4
    target = name.encode().ljust(len(name) + len(name) % 2, b"\0")
    alias = bytes(10) + bytes([0]) + bytes(27 + 12) + bytes([len(name)]) + name.encode().ljust(63, b"\0") + bytes(16)
    alias += struct.pack(">HH", 1, 1) + bytes(16) + struct.pack(">HH", 2, len(name)) + target
    alias += struct.pack(">Hh", 0xFFFF, 0)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    for parent in PARENTS:
        at = data.index(parent) - 4
        data[at : at + 4] = struct.pack(">I", struct.unpack(">I", data[at : at + 4])[0] + len(entry) - 12)
    data[here : here + 12] = entry
    path.write_bytes(data)
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What other files were asked for; none is given."""
    names: list[str] = []
    refuse = container._refuse

    def noting(url: str, flags: int, options: dict[str, str]) -> None:
        names.append(url)
        refuse(url, flags, options)

    monkeypatch.setattr(container, "_refuse", noting)
    return names


def test_pictures_in_another_file_are_not_even_asked_for(tmp_path: Path, asked: list[str]) -> None:
    make_clip(tmp_path / "other.mp4")
    path = referring_elsewhere(tmp_path / "clip.mp4", "other.mp4")
    with pytest.raises(VideoError) as caught:
        probe(path, LIMITS)
    assert caught.value.code == "damaged"
    assert asked == []


def test_even_a_demuxer_that_wants_another_file_gets_none(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(container.OPTIONS, "enable_drefs", "1")
    make_clip(tmp_path / "other.mp4")
    path = referring_elsewhere(tmp_path / "clip.mp4", "other.mp4")
    with pytest.raises(VideoError) as caught:
        probe(path, LIMITS)
    assert caught.value.code == "unsupported_video"
    assert asked and all("other.mp4" in name for name in asked)


def test_titles_that_are_not_utf8_do_not_keep_a_video_shut(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", seconds=0.2)
    clip.path.write_bytes(clip.path.read_bytes().replace(b"Lavf", b"\xff\xfe\xfd\xfc"))
    with open_container(clip.path) as source:
        assert sum(1 for _ in source.packets()) == 6


def test_a_decoder_that_is_not_there_is_told(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", seconds=0.2)
    data = clip.path.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_UNKNOWN/NOVEL")
    clip.path.write_bytes(data)
    with pytest.raises(VideoError) as caught:
        probe(clip.path, LIMITS)
    assert caught.value.code == "unsupported_video"


def test_a_stretch_that_cannot_be_read_is_skipped(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", seconds=4.0, gop=10)
    data = bytearray(clip.path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 1_500] = b"\xff" * 1_500
    clip.path.write_bytes(data)
    with open_container(clip.path) as source:
        times = [packet.pts for packet in source.packets()]
    assert 60 <= len(times) < 120
    assert max(times) > 3_500


def test_a_stream_that_turned_up_on_the_way_does_not_spoil_the_end(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.ts", codec="mpeg2video", seconds=0.2)
    with open_container(clip.path) as source:
        demux = source.container.demux

        def with_a_stream_more(stream: Any) -> Iterator[Any]:
            yield from demux(stream)
            raise IndexError("list index out of range")  # PyAV 18.1, when it flushes streams that it did not know of

        source.container = SimpleNamespace(demux=with_a_stream_more)
        assert sum(1 for _ in source.packets()) == 6
