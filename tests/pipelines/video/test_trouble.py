"""Damage, lies, changes on the way, no GPU: what can be shown is shown, and nothing is decoded in vain."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from av.codec.context import ThreadType
from av.codec.hwaccel import HWAccel

from pipelines.video import decoding, reader
from pipelines.video.container import Source
from pipelines.video.decoding import open_video
from pipelines.video.info import VideoError
from pipelines.video.reader import Reader
from pipelines.video.timeline import Timeline
from tests import drawings
from tests.clips import ODDITIES, make_clip
from tests.drawings import read_index
from tests.pipelines.video.comparing import MANY_HZ, all_pixels_equal, in_full_only
from tests.pipelines.video.conftest import Odd


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


@pytest.mark.parametrize(("name", "is_by_frame"), [("plain", True), ("av1", True), ("ten-bit", False), ("vp9", False)])
def test_decoders_that_damage_would_hang_or_crash_share_no_frames_out(odd: Odd, name: str, is_by_frame: bool) -> None:
    with Reader(odd(name).path, num_threads=4) as opened:
        assert bool(opened._decoder.thread_type & ThreadType.FRAME) == is_by_frame


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


def test_making_a_clip_leaves_this_process_its_place_among_others(tmp_path: Path) -> None:
    before = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
    ODDITIES["av1"](tmp_path)
    assert (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority) == before
