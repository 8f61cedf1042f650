"""Stills are the frames that were drawn, upright, in their colours, at the times they are shown."""

import logging
from pathlib import Path

import numpy as np
import pytest

from pipelines.video.decoding import open_video
from tests import drawings
from tests.clips import FULL, Track, make_clip, make_file
from tests.drawings import CORNERS, corners, read_index
from tests.pipelines.video.comparing import MANY_HZ, all_pixels_equal, in_full_only, tolerance_s
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


@pytest.mark.parametrize("matrix", [0, 3, 8, 10, 14, 255])
def test_a_matrix_that_cannot_be_is_not_believed(tmp_path: Path, matrix: int) -> None:
    clip = make_clip(tmp_path / "clip.mp4", codec="mpeg4", matrix=6, seconds=0.1)
    data = clip.path.read_bytes()
    at = data.index(b"colrnclx") + 8
    clip.path.write_bytes(data[: at + 4] + matrix.to_bytes(2) + data[at + 6 :])
    with open_video(clip.path) as video:
        [still] = video.take([0.0])
    assert corners(still.rgb)["top left"] == pytest.approx(drawings.RED, abs=8)


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


def test_the_default_stream_wins_and_then_the_largest(tmp_path: Path) -> None:
    small, large = Track(seconds=0.5), Track(seconds=0.5, size=(320, 192), draw=drawings.still)
    by_size = make_file(tmp_path / "size.mkv", small, large)
    by_default = make_file(tmp_path / "default.mp4", Track(seconds=0.5, is_default=True), large)
    with open_video(by_size.path) as one, open_video(by_default.path) as other:
        assert one.info.width_px == 320
        assert other.info.width_px == 160
