"""What a file is found to be: headers are checked against what is there, and what is wrong has one clear code."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.video.container import Source
from pipelines.video.info import VideoError, VideoLimits
from pipelines.video.probing import probe
from tests.clips import Clip, Track, cut_off, make_clip, make_file
from tests.pipelines.video.conftest import Odd

LIMITS = VideoLimits(max_s=3_600.0, max_px=8_912_896)


def code_of(path: Path, limits: VideoLimits = LIMITS) -> str:
    with pytest.raises(VideoError) as caught:
        probe(path, limits)
    assert str(caught.value).endswith(".") and len(str(caught.value)) > 20
    return caught.value.code


def patched(clip: Clip, after: bytes, skip: int, new: bytes) -> Path:
    """The file with `new` written `skip` bytes after each place where `after` ends."""
    data = bytearray(clip.path.read_bytes())
    at = data.find(after)
    assert at >= 0
    while at >= 0:
        start = at + len(after) + skip
        data[start : start + len(new)] = new
        at = data.find(after, start)
    clip.path.write_bytes(data)
    return clip.path


@pytest.mark.parametrize(
    ("name", "container", "codec", "width_px", "height_px", "rotation"),
    [
        ("plain", "mov", "h264", 160, 96, 0),
        ("rotated-90", "mov", "h264", 96, 160, 90),
        ("rotated-180", "mov", "h264", 160, 96, 180),
        ("rotated-270", "mov", "h264", 96, 160, 270),
        ("wide-pixels", "mov", "h264", 213, 96, 0),
        ("av1", "mov", "av1", 160, 96, 0),
        ("vp9", "matroska", "vp9", 160, 96, 0),
        ("mjpeg", "avi", "mjpeg", 160, 96, 0),
        ("mpeg2-ts", "mpegts", "mpeg2video", 160, 96, 0),
    ],
)
def test_a_video_is_described_as_a_player_shows_it(
    odd: Odd, name: str, container: str, codec: str, width_px: int, height_px: int, rotation: int
) -> None:
    clip = odd(name)
    info = probe(clip.path, LIMITS)
    assert (info.container, info.codec, info.rotation) == (container, codec, rotation)
    assert (info.width_px, info.height_px) == (width_px, height_px)
    assert info.duration_s == pytest.approx(len(clip.times_s) / float(clip.track.fps), abs=0.05)
    assert info.fps == pytest.approx(float(clip.track.fps), rel=0.01)
    assert info.num_frames in {None, len(clip.times_s)}
    assert info.size_bytes == clip.path.stat().st_size


def test_depth_transfer_and_fields_are_told(odd: Odd) -> None:
    assert (probe(odd("ten-bit").path, LIMITS).bit_depth, probe(odd("ten-bit").path, LIMITS).transfer) == (10, "sdr")
    assert [probe(odd(name).path, LIMITS).transfer for name in ("pq", "hlg", "plain")] == ["pq", "hlg", "sdr"]
    assert [probe(odd(name).path, LIMITS).is_interlaced for name in ("interlaced", "plain")] == [True, False]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "not_a_video"),
        (b"This is a text.\n" * 50, "not_a_video"),
        (b"#EXTM3U\nhttp://example.com/1.ts\n", "not_a_video"),
        (b"PK\x03\x04" + bytes(500), "not_a_video"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2", "truncated"),
        (b"\x00\x00\x00\x10ftypisom\x00\x00\x02\x00\x00\x00\x00\x01mdat" + b"\xff" * 8, "truncated"),
        (b"\x1a\x45\xdf\xa3" + bytes(600), "damaged"),
        (b"RIFF\x00\x01\x00\x00AVI LIST" + bytes(600), "damaged"),
        (b"\x47" + (bytes(187) + b"\x47") * 20, "damaged"),
    ],
)
def test_what_only_looks_like_a_video_is_refused(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    assert code_of(path) == code


def test_sound_is_no_video_with_or_without_a_cover(odd: Odd, tmp_path: Path) -> None:
    assert code_of(odd("sound-only").path) == "not_a_video"
    cover = Track(codec="mjpeg", pix_fmt="yuvj420p", color_range=2, seconds=1 / 30, is_cover=True)
    assert code_of(make_file(tmp_path / "song.mp4", cover, has_sound=True).path) == "not_a_video"


def test_a_file_without_its_end_is_truncated(odd: Odd, tmp_path: Path) -> None:
    assert code_of(odd("headless").path) == "truncated"
    assert code_of(odd("cut-off").path) == "truncated"
    assert code_of(cut_off(make_clip(tmp_path / "clip.mkv"), share=0.8).path) == "truncated"
    fragmented = make_file(tmp_path / "clip.mp4", Track(), options={"movflags": "frag_keyframe+empty_moov"})
    assert probe(fragmented.path, LIMITS).duration_s == pytest.approx(2.0, abs=0.05)
    assert code_of(cut_off(fragmented, share=0.6).path) == "truncated"


def test_what_hangs_on_behind_a_whole_video_does_not_matter(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    clip.path.write_bytes(clip.path.read_bytes() + b"PK\x03\x04" + bytes(3_000))
    assert probe(clip.path, LIMITS).duration_s == pytest.approx(2.0)


def test_pictures_of_noise_are_damaged(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    data = clip.path.read_bytes()
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    clip.path.write_bytes(data[:start] + b"\xa5" * (end - start) + data[end:])
    assert code_of(clip.path) == "damaged"


def test_limits_are_kept(odd: Odd) -> None:
    assert code_of(odd("plain").path, VideoLimits(max_s=1.5, max_px=8_000_000)) == "too_long"
    assert code_of(odd("plain").path, VideoLimits(max_s=10, max_px=160 * 96 - 1)) == "too_many_pixels"
    assert code_of(odd("wide-pixels").path, VideoLimits(max_s=10, max_px=160 * 96)) == "too_many_pixels"
    assert probe(odd("plain").path, VideoLimits(max_s=2.0, max_px=160 * 96)).num_frames == 60


def test_a_header_of_ten_hours_is_refused_or_seen_through(tmp_path: Path) -> None:
    ten_hours_s = 36_000
    matroska = patched(make_clip(tmp_path / "clip.mkv"), b"\x44\x89\x88", 0, struct.pack(">d", ten_hours_s * 1000.0))
    assert code_of(matroska) == "too_long"
    clip = make_clip(tmp_path / "clip.mp4")
    for box, skip in ((b"mdhd", 16), (b"mvhd", 16), (b"tkhd", 20)):
        patched(clip, box, skip, struct.pack(">I", ten_hours_s * 15_360))
    assert probe(clip.path, LIMITS).duration_s == pytest.approx(2.0)


def test_a_header_of_almost_no_time_does_not_hide_a_long_video(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", fps=10, seconds=8.0)
    path = patched(clip, b"\x44\x89\x88", 0, struct.pack(">d", 100.0))  # Matroska's Duration, in ms
    assert probe(path, LIMITS).duration_s == pytest.approx(8.0, abs=0.1)
    assert code_of(path, VideoLimits(max_s=5.0, max_px=8_000_000)) == "too_long"


def test_a_header_of_a_giant_picture_is_refused_or_seen_through(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.avi", codec="mpeg4")
    path = patched(clip, b"strf", 8, struct.pack("<II", 100_000, 100_000))
    try:
        info = probe(path, LIMITS)
    except VideoError as error:
        assert error.code == "too_many_pixels"
    else:
        assert (info.width_px, info.height_px) == (160, 96)


def test_a_header_of_a_tiny_picture_does_not_hide_a_large_one(tmp_path: Path) -> None:
    path = patched(make_clip(tmp_path / "clip.mp4"), b"avc1", 24, struct.pack(">HH", 16, 16))
    assert code_of(path, VideoLimits(max_s=10, max_px=100 * 100)) == "too_many_pixels"


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_a_duration_that_no_header_names_is_found(tmp_path: Path, suffix: str) -> None:
    options = {"live": "1"} if suffix == "mkv" else {}
    clip = make_file(tmp_path / f"clip.{suffix}", Track(start_s=50.0), options=options)
    assert probe(clip.path, LIMITS).duration_s == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize(("scale", "rate"), [(0, 30), (1, 0), (0, 0), (1, 2**32 - 1), (2**32 - 1, 1), (2**31, 2**31)])
def test_absurd_frame_rates_break_nothing(tmp_path: Path, scale: int, rate: int) -> None:
    clip = make_clip(tmp_path / "clip.avi", codec="mjpeg", pix_fmt="yuvj420p", color_range=2, seconds=0.5)
    path = patched(clip, b"strh", 24, struct.pack("<II", scale, rate))
    try:
        info = probe(path, VideoLimits(max_s=1e6, max_px=8_000_000))
    except VideoError as error:
        assert error.code in {"damaged", "too_long"}
    else:
        assert 0 <= info.fps <= 1_000
        assert info.duration_s >= 0


def test_a_long_video_is_probed_without_going_through_it(odd: Odd, monkeypatch: pytest.MonkeyPatch) -> None:
    num_read = 0
    packets = Source.packets

    def counted(self: Source) -> Iterator[Any]:
        nonlocal num_read
        for packet in packets(self):
            num_read += 1
            yield packet

    monkeypatch.setattr(Source, "packets", counted)
    clip = odd("still-minute")
    assert probe(clip.path, LIMITS).duration_s == pytest.approx(60.0)
    assert num_read < len(clip.times_s) / 3
