"""Stills are the frames that were drawn, upright, in their colours, at the times they are shown."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from av.codec.hwaccel import HWAccel

from pipelines.video import decoding, reader
from pipelines.video.container import Source
from pipelines.video.decoding import Still, Video, open_video
from pipelines.video.info import VideoError
from pipelines.video.reader import Reader
from pipelines.video.timeline import Timeline
from tests import drawings
from tests.clips import FULL, Clip, Track, make_clip, make_file
from tests.drawings import CORNERS, corners, read_index
from tests.pipelines.video.conftest import Odd

NUMBERED = (
    "plain",
    "rotated-90",
    "rotated-180",
    "rotated-270",
    "mirrored",
    "variable-rate",
    "ten-bit",
    "av1",
    "vp9",
    "mjpeg",
    "mpeg2-ts",
    "b-frames",
    "full-range",
    "bt601",
    "wide-pixels",
    "several-streams",
    "cuts",
)
COLOURED = tuple(name for name in NUMBERED if name != "cuts")
MANY_HZ = 1_000.0  # every frame


def tolerance_s(clip: Clip) -> float:
    return 6e-4 if clip.path.suffix in {".webm", ".mkv"} else 2e-5  # Matroska counts milliseconds


def in_full_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Video, "_read_timeline", lambda _: None)


def all_pixels_equal(some: list[Still], others: list[Still]) -> bool:
    pairs = zip(some, others, strict=True)
    return all(one.time_s == other.time_s and np.array_equal(one.rgb, other.rgb) for one, other in pairs)


@pytest.mark.parametrize("name", NUMBERED)
def test_a_survey_has_every_frame_once_at_its_time(odd: Odd, name: str) -> None:
    clip = odd(name)
    with open_video(clip.path) as video:
        stills = list(video.survey(MANY_HZ, 320))
    assert [read_index(still.rgb) for still in stills] == list(range(len(clip.times_s)))
    assert [still.time_s for still in stills] == pytest.approx(clip.times_s, abs=tolerance_s(clip))


@pytest.mark.parametrize("name", NUMBERED)
def test_what_is_taken_is_on_the_screen_at_that_time(odd: Odd, name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clip = odd(name)
    starts_s = np.array(clip.times_s)
    asked_s = np.sort(np.random.default_rng(1).uniform(0, starts_s[-1] + 1, 25))
    shown = np.searchsorted(starts_s, asked_s, side="right") - 1
    with open_video(clip.path) as video:
        stills = list(video.take(asked_s.tolist()))
    assert [read_index(still.rgb) for still in stills] == shown.tolist()
    assert [still.time_s for still in stills] == pytest.approx(starts_s[shown], abs=tolerance_s(clip))
    assert not caplog.records, "there is nothing wrong with the clip, so the quick way has to do"


@pytest.mark.parametrize("name", COLOURED)
def test_colours_and_orientation_are_those_that_were_drawn(odd: Odd, name: str) -> None:
    with open_video(odd(name).path) as video:
        [taken] = video.take([0.1])
        surveyed = next(video.survey(1, 80))
        size_px = (video.info.height_px, video.info.width_px)
    assert taken.rgb.shape == (*size_px, 3) and taken.rgb.dtype == np.uint8
    assert max(surveyed.rgb.shape) == 80
    for still in (taken, surveyed):
        found = corners(still.rgb)
        for corner, colour in CORNERS.items():
            assert found[corner] == pytest.approx(colour, abs=6), corner


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_every_turn_and_its_mirror_image_end_upright(tmp_path: Path, rotation: int, is_mirrored: bool) -> None:
    size = (96, 160) if rotation % 180 else (160, 96)
    clip = make_clip(tmp_path / "clip.mp4", size=size, rotation=rotation, is_mirrored=is_mirrored, seconds=0.2)
    with open_video(clip.path) as video:
        still = next(video.survey(1, 320))
    assert still.rgb.shape == (size[1], size[0], 3)
    assert read_index(still.rgb) == 0
    for corner, colour in corners(still.rgb).items():
        assert colour == pytest.approx(CORNERS[corner], abs=6), corner


@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize(("color_range", "pix_fmt"), [(1, "yuv420p"), (FULL, "yuv420p"), (1, "yuv444p10le")])
def test_every_matrix_and_range_gives_the_same_colours(
    tmp_path: Path, matrix: int, color_range: int, pix_fmt: str
) -> None:
    options = {"profile": "high444" if "444" in pix_fmt else "high", "crf": "6"}
    clip = make_clip(
        tmp_path / "clip.mp4", matrix=matrix, color_range=color_range, pix_fmt=pix_fmt, options=options, seconds=0.1
    )
    with open_video(clip.path) as video:
        [still] = video.take([0.0])
    for corner, colour in corners(still.rgb).items():
        assert colour == pytest.approx(CORNERS[corner], abs=4), corner


def test_pictures_come_out_neither_darker_nor_tinted(tmp_path: Path) -> None:
    waves = np.sin(np.mgrid[:96, :160].sum(axis=0)[..., None] / [23, 31, 17]) * 90 + 128
    clip = make_clip(
        tmp_path / "clip.mp4", draw=lambda *_: waves.astype(np.uint8), seconds=0.1, options={"qp": "0", "crf": "-1"}
    )
    with open_video(clip.path) as video:
        [full] = video.take([0.0])
        small = next(video.survey(1, 80))
    assert (full.rgb - waves).mean(axis=(0, 1)) == pytest.approx([0, 0, 0], abs=0.7)  # truncated to whole levels: -0.5
    assert np.abs(full.rgb - waves).mean() < 1.5
    assert small.rgb.mean(axis=(0, 1)) == pytest.approx(full.rgb.mean(axis=(0, 1)), abs=0.3)


@pytest.mark.parametrize("name", [*NUMBERED, "letterbox", "dark", "still-minute"])
def test_the_quick_way_gives_the_very_pixels_of_a_full_decode(
    odd: Odd, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = odd(name)
    asked_s = np.linspace(0, clip.times_s[-1], 7).tolist()
    with open_video(clip.path) as video:
        quick = list(video.take(asked_s))
        in_full_only(monkeypatch)
        assert all_pixels_equal(quick, list(video.take(asked_s)))


def test_a_survey_has_one_still_at_most_for_each_stretch(odd: Odd) -> None:
    with open_video(odd("variable-rate").path) as video:
        times_s = [still.time_s for still in video.survey(8, 64)]
    stretches = [int(time_s * 8 + 1e-6) for time_s in times_s]
    assert stretches == sorted(set(stretches))
    assert len(stretches) >= 0.9 * video.info.duration_s * 8


def test_each_asked_time_has_its_still_even_where_frames_are_the_same(odd: Odd) -> None:
    with open_video(odd("plain").path) as video:
        stills = list(video.take([1.01, 0.0, 1.02, -5.0, 99.0]))
        assert list(video.take([])) == []
    assert [read_index(still.rgb) for still in stills] == [0, 0, 30, 30, 59]


def test_times_that_went_through_text_still_name_their_frame(odd: Odd) -> None:
    with open_video(odd("b-frames").path) as video:
        exact = [still.time_s for still in video.survey(MANY_HZ, 64)]
        stills = list(video.take([round(time_s, 4) for time_s in exact]))
    assert [still.time_s for still in stills] == exact


def test_only_what_wanted_pictures_need_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path / "clip.mp4", seconds=4.0, gop=30, options={"x264-params": "scenecut=0"})
    decoded: list[int] = []
    decode = Reader._decode

    def spied(self: Reader, packet: Any) -> list[Any]:
        decoded.extend([packet.pts] if packet is not None else [])
        return decode(self, packet)

    monkeypatch.setattr(Reader, "_decode", spied)
    with open_video(clip.path) as video:
        stills = list(video.take([1.0, 3.1]))
    assert [read_index(still.rgb) for still in stills] == [30, 93]
    assert len(decoded) == 1 + 4


@pytest.mark.parametrize("lies", ["all", "some"])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_key_frames_that_are_none_do_no_harm(
    tmp_path: Path, codec: str, lies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_timeline = decoding.read_timeline

    def lying(source: Source) -> Timeline | None:
        timeline = read_timeline(source)
        assert timeline is not None
        timeline.is_key[:: 1 if lies == "all" else 11] = True
        return timeline

    clip = make_clip(tmp_path / "clip.mkv", codec=codec, draw=drawings.cuts, seconds=6.0)
    monkeypatch.setattr(decoding, "read_timeline", lying)
    with open_video(clip.path) as video:
        stills = list(video.take([0.5, 1.9, 2.4, 4.9, 5.5]))
        in_full_only(monkeypatch)
        assert all_pixels_equal(stills, list(video.take([0.5, 1.9, 2.4, 4.9, 5.5])))


def test_damage_is_counted_and_stops_nothing(odd: Odd) -> None:
    clip = odd("damaged")
    with open_video(clip.path) as video:
        stills = list(video.survey(MANY_HZ, 320))
        assert video.num_damaged >= 2
        times_s = [still.time_s for still in stills]
        lost = [time_s for time_s in clip.times_s if not np.isclose(times_s, time_s).any()]
        assert 1 <= len(lost) <= 25 and times_s[-1] == pytest.approx(clip.times_s[-1])
        [instead] = video.take(lost[:1])
    before = max(time_s for time_s in times_s if time_s < lost[0])
    assert instead.time_s == before, "what came before it stays on the screen"


def test_of_a_file_that_is_cut_off_what_is_there_is_given(odd: Odd) -> None:
    with open_video(odd("cut-off").path) as video:
        found = [read_index(still.rgb) for still in video.survey(MANY_HZ, 320)]
    assert found == list(range(len(found))) and 30 <= len(found) < 60


def test_a_size_that_changes_on_the_way_is_scaled_to_the_first(tmp_path: Path) -> None:
    first = make_clip(tmp_path / "one.ts", codec="mpeg2video", seconds=1.0)
    second = make_clip(tmp_path / "two.ts", codec="mpeg2video", seconds=1.0, size=(320, 192), start_s=1.0)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.path.read_bytes() + second.path.read_bytes())
    with open_video(joined) as video:
        stills = list(video.survey(MANY_HZ, 320))
    assert {still.rgb.shape for still in stills} == {(96, 160, 3)}
    assert [read_index(still.rgb) for still in stills][-5:] == [25, 26, 27, 28, 29]
    assert stills[-1].time_s == pytest.approx(59 / 30, abs=0.05)


def test_times_that_start_anew_on_the_way_never_run_backwards(odd: Odd, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = Reader._decode

    def starting_anew(self: Reader, packet: Any) -> Iterator[Any]:
        for frame in decode(self, packet):
            frame.pts = frame.pts % (40 * 512)  # 512 for each frame
            yield frame

    in_full_only(monkeypatch)
    monkeypatch.setattr(Reader, "_decode", starting_anew)
    with open_video(odd("plain").path) as video:
        found = [read_index(still.rgb) for still in video.survey(MANY_HZ, 160)]
    assert found == list(range(40))


def test_packets_without_times_are_shown_one_frame_after_another(odd: Odd, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = Reader._decode

    def timeless(self: Reader, packet: Any) -> Iterator[Any]:
        for frame in decode(self, packet):
            frame.pts = None
            yield frame

    in_full_only(monkeypatch)
    monkeypatch.setattr(Reader, "_decode", timeless)
    with open_video(odd("plain").path) as video:
        stills = list(video.survey(MANY_HZ, 64))
    assert [still.time_s for still in stills] == pytest.approx([index / 30 for index in range(60)])


def test_the_default_stream_wins_and_then_the_largest(tmp_path: Path) -> None:
    small, large = Track(seconds=0.5), Track(seconds=0.5, size=(320, 192), draw=drawings.still)
    by_size = make_file(tmp_path / "size.mkv", small, large)
    by_default = make_file(tmp_path / "default.mp4", Track(seconds=0.5, is_default=True), large)
    with open_video(by_size.path) as one, open_video(by_default.path) as other:
        assert one.info.width_px == 320
        assert other.info.width_px == 160


def test_without_a_gpu_a_large_video_is_decoded_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path / "clip.mp4", size=(1920, 1080), seconds=0.1)
    tried: list[str] = []

    def missing(kind: str, **wishes: Any) -> Any:
        tried.append(kind)
        return HWAccel(kind, device="99", **wishes)

    monkeypatch.setattr(reader, "HWAccel", missing)
    with open_video(clip.path, hardware="auto") as video, open_video(clip.path) as plain:
        assert all_pixels_equal(list(video.take([0.0, 0.05])), list(plain.take([0.0, 0.05])))
    assert tried == ["cuda"]
    with open_video(make_clip(tmp_path / "small.mp4", seconds=0.1).path, hardware="auto") as video:
        list(video.take([0.0]))
    assert tried == ["cuda"], "a small video is not worth the way to a GPU"


def test_a_survey_that_is_left_early_lets_go_of_the_file(odd: Odd) -> None:
    def is_open() -> bool:
        return str(odd("cuts").path) in {file.path for file in psutil.Process().open_files()}

    stills = open_video(odd("cuts").path).survey(8, 64)
    next(stills)
    assert is_open()
    stills.close()  # type: ignore[attr-defined]
    assert not is_open()


def test_what_has_no_picture_that_can_be_decoded_is_refused(odd: Odd, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_video(odd("plain").path) as video:
        monkeypatch.setattr(Reader, "_decode", lambda _self, _packet: [])
        with pytest.raises(VideoError) as caught:
            list(video.survey(8, 64))
    assert caught.value.code == "damaged"
