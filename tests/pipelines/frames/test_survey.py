"""survey() on clips that are odd in one way each: scenes, scores and faces are those of what was drawn."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from configs.settings.intake import FrameSettings
from pipelines.frames.candidates import Survey, coverage
from pipelines.frames.orders import SURVEY_WORK, SurveyOrder
from pipelines.frames.survey import survey
from pipelines.request import MOMENT_S
from pipelines.sandbox import Bounds, run_apart
from pipelines.work import WorkRefused
from tests.clips import ODDITIES, make_clip
from tests.pipelines.frames.conftest import SETTINGS, surveyed

Pixels = NDArray[np.uint8]


def test_a_cut_every_second_gives_a_scene_every_second(oddity):
    cuts = oddity("cuts")
    assert [one.scene for one in cuts.survey.candidates] == [int(one.time_s + 1e-6) for one in cuts.survey.candidates]
    assert [one.scene for one in cuts.choose(max_frames=6).kept] == [0, 1, 2, 3, 4, 5]


def test_a_still_for_a_minute_is_one_scene_of_duplicates(oddity):
    still = oddity("still-minute")
    assert {one.scene for one in still.survey.candidates} == {0}
    counts = still.choose().counts
    assert counts == {"kept": 1, "duplicate": len(still.survey.candidates) - 1}


def test_a_night_is_too_dark(oddity):
    night = oddity("dark")
    assert night.choose().counts == {"kept": 0, "too_dark": len(night.survey.candidates)}


def test_a_sharp_frame_among_blurred_ones_wins(tmp_path):
    sharp_frames = set(range(2, 45, 6))

    def draw(index: int, width_px: int, height_px: int) -> Pixels:
        picture = cv2.resize(skimage.data.coffee(), (width_px, height_px), interpolation=cv2.INTER_AREA)
        picture = np.roll(picture, 40 * (index // 15), axis=1)
        return picture if index in sharp_frames else cv2.GaussianBlur(picture, (0, 0), 3)

    clip = make_clip(tmp_path / "blur.mp4", draw=draw, size=(320, 192), fps=15, seconds=3.0)
    eager = SETTINGS.model_copy(update={"survey_hz": 15.0})
    choice = surveyed(clip, tmp_path, eager).choose()
    assert len(choice.kept) >= 3
    assert {round(one.time_s * 15) for one in choice.kept} <= sharp_frames
    assert choice.counts["blurry"] == 45 - len(sharp_frames)


def test_bars_are_not_part_of_the_stills(oddity):
    letterbox = oddity("letterbox")
    width_px, height_px = letterbox.survey.still_width_px, letterbox.survey.still_height_px
    assert width_px == 160
    assert 68 <= height_px <= 72
    with Image.open(letterbox.folder / letterbox.survey.candidates[0].thumbnail) as thumbnail:
        assert thumbnail.size == (width_px, height_px)


def test_damage_costs_stills_and_not_the_survey(oddity):
    damaged = oddity("damaged").survey
    assert damaged.num_damaged > 0
    assert damaged.candidates[-1].time_s > 3.5


@pytest.mark.parametrize("name", ["variable-rate", "mpeg2-ts", "interlaced", "av1", "hlg", "rotated-270", "cut-off"])
def test_stills_come_at_times_of_frames(oddity, name):
    odd = oddity(name)
    shown = np.asarray(odd.clip.times_s)
    for one in odd.survey.candidates:
        assert np.abs(shown - one.time_s).min() < 1e-3
    for left, right in pairwise(odd.survey.candidates):
        assert right.time_s - left.time_s < 2 / SETTINGS.survey_hz + 0.1


def test_a_face_is_found_where_the_camera_goes(tmp_path):
    astronaut = np.pad(skimage.data.astronaut(), ((0, 0), (256, 256), (0, 0)), mode="edge")

    def draw(index: int, width_px: int, height_px: int) -> Pixels:
        left_px = 80 + 6 * index
        part = np.ascontiguousarray(astronaut[:360, left_px : left_px + 480])
        return cv2.resize(part, (width_px, height_px), interpolation=cv2.INTER_AREA)

    clip = make_clip(tmp_path / "astronaut.mp4", draw=draw, size=(480, 360), fps=15, seconds=3.0)
    found = surveyed(clip, tmp_path)
    bests = [one for one in found.survey.candidates if one.is_best]
    assert len(bests) == 3.0 / MOMENT_S
    order = SurveyOrder.of(clip.path, tmp_path, SETTINGS, moment_s=0.25)
    closer = Survey.from_dict(survey(order.to_dict(), lambda _: None))
    assert sum(one.is_best for one in closer.candidates) == 3.0 / 0.25
    for one in bests:
        assert one.faces is not None
        (face,) = one.faces
        her_middle = 256 + 177 + 95 / 2 - (80 + 6 * round(one.time_s * 15))
        assert abs(face.x + face.width / 2 - her_middle) < 25
        assert coverage(one.faces, found.survey.still_height_px) == "close" if face.height >= 96 else "medium"
    assert found.choose(faces="require").counts["kept"] >= 2


def test_where_faces_are_required_a_video_without_any_gives_no_still(oddity):
    plain = oddity("plain")
    assert plain.choose(faces="require").counts == {"kept": 0, "no_face": len(plain.survey.candidates)}


def test_without_a_face_detector_the_survey_says_so(oddity, monkeypatch, tmp_path):
    clip = oddity("plain").clip
    assert surveyed(clip, tmp_path).survey.has_face_detector
    monkeypatch.delattr(cv2, "CascadeClassifier")
    blind = surveyed(clip, tmp_path).survey
    assert not blind.has_face_detector
    assert {one.faces for one in blind.candidates if one.is_best} == {()}


def test_a_long_video_is_looked_at_less_often(tmp_path):
    clip = ODDITIES["cuts"](tmp_path)
    found = surveyed(clip, tmp_path, SETTINGS.model_copy(update={"max_surveyed": 12})).survey
    assert len(found.candidates) == 12
    assert found.candidates[-1].time_s > 5


def test_thumbnails_are_small_pictures_of_their_stills(oddity):
    cuts = oddity("cuts")
    for one in cuts.survey.candidates:
        with Image.open(cuts.folder / one.thumbnail) as thumbnail:
            assert max(thumbnail.size) <= 320
            assert np.asarray(thumbnail.convert("L")).mean() == pytest.approx(one.brightness, abs=3)


def test_progress_is_told_in_seconds_of_video_about_a_hundred_times(tmp_path):
    clip, told = ODDITIES["still-minute"](tmp_path), []
    survey(SurveyOrder.of(clip.path, tmp_path, SETTINGS).to_dict(), told.append)
    assert {news["of_s"] for news in told} == {60.0}
    done = [news["done_s"] for news in told]
    assert done == sorted(done)
    assert done[-1] > 59
    assert 50 < len(done) <= 101


def test_what_is_no_video_is_refused(tmp_path):
    path = tmp_path / "story.mp4"
    path.write_text("Once upon a time there was a text.")
    with pytest.raises(WorkRefused) as refusal:
        survey(SurveyOrder.of(path, tmp_path, SETTINGS).to_dict(), lambda _: None)
    assert refusal.value.code == "not_a_video"


async def test_it_works_in_a_process_of_its_own(tmp_path: Path):
    clip = ODDITIES["plain"](tmp_path)
    told: list[dict[str, Any]] = []
    bounds = Bounds(wall_s=60, memory_bytes=FrameSettings().memory_bytes, file_bytes=10_000_000)
    order = SurveyOrder.of(clip.path, tmp_path, SETTINGS)
    found = Survey.from_dict(await run_apart(SURVEY_WORK, order.to_dict(), bounds=bounds, on_news=told.append))
    assert len(found.candidates) == 16
    assert told
