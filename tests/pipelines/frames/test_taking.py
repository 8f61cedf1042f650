"""take(): full-size stills of the very frames that were chosen; a contact sheet that shows and hides what it should."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipelines.frames.candidates import Choice, Rejected
from pipelines.frames.orders import TakeOrder
from pipelines.frames.taking import take
from pipelines.request import Face
from pipelines.work import WorkRefused
from tests.drawings import CORNERS, corners, read_index
from tests.pipelines.frames.conftest import SETTINGS


def all_kept(choice: Choice) -> Choice:
    """A choice that kept everything."""
    return Choice((*choice.kept, *(one.candidate for one in choice.rejected)), (), ())


@pytest.mark.parametrize("name", ["variable-rate", "b-frames", "rotated-90", "rotated-270", "av1", "mpeg2-ts"])
def test_stills_are_the_frames_of_their_times(oddity, name):
    odd = oddity(name)
    taken = odd.take(odd.choose(dedupe=False))
    assert taken.stills
    for still in taken.stills:
        with Image.open(odd.folder / still.file.name) as picture:
            rgb = np.asarray(picture)
        assert odd.clip.times_s[read_index(rgb)] == pytest.approx(still.time_s, abs=1e-3)
        assert (still.file.width_px, still.file.height_px) == odd.clip.track.size == rgb.shape[1::-1]


@pytest.mark.parametrize("name", ["rotated-90", "rotated-180", "rotated-270", "letterbox"])
def test_stills_are_upright_and_whole(oddity, name):
    odd = oddity(name)
    still = odd.take(odd.choose()).stills[0]
    with Image.open(odd.folder / still.file.name) as picture:
        found = corners(np.asarray(picture))
    for corner, colour in CORNERS.items():
        assert np.abs(np.subtract(found[corner], colour)).max() < 16


def test_bars_are_not_part_of_the_stills(oddity):
    letterbox = oddity("letterbox")
    file = letterbox.take(letterbox.choose()).stills[0].file
    assert file.width_px == 160
    assert 68 <= file.height_px <= 72


@pytest.mark.parametrize(("kind", "ending"), [("jpeg", "jpg"), ("png", "png"), ("webp", "webp")])
def test_files_are_what_is_said_of_them(oddity, kind, ending):
    cuts = oddity("cuts")
    choice = cuts.choose()
    taken = cuts.take(choice, output_format=kind)
    assert [still.index for still in taken.stills] == [one.index for one in choice.kept]
    assert [still.file.name for still in taken.stills] == [f"frame-{n:02d}.{ending}" for n in range(len(choice.kept))]
    for file in (*(still.file for still in taken.stills), taken.contact_sheet):
        data = (cuts.folder / file.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.num_bytes, file.sha256)
        with Image.open(cuts.folder / file.name) as picture:
            assert picture.size == (file.width_px, file.height_px)


def test_a_jpeg_keeps_all_of_its_colour(oddity):
    cuts = oddity("cuts")
    name = cuts.take(cuts.choose(), output_format="jpeg").stills[0].file.name
    with Image.open(cuts.folder / name) as picture:
        assert picture.format == "JPEG"
        assert [layer[1:3] for layer in picture.layer] == [(1, 1)] * 3


def test_faces_are_in_pixels_of_the_file(oddity):
    plain = oddity("plain")
    half = replace(plain, survey=replace(plain.survey, still_width_px=80, still_height_px=48))
    with_face = replace(half.survey.candidates[0], faces=(Face(x=10, y=8, width=20, height=24, score=0.5),))
    still = half.take(Choice((with_face,), (), ())).stills[0]
    assert still.faces == (Face(x=20, y=16, width=40, height=48, score=0.5),)
    assert still.coverage == "close"


def colour_at(picture: Image.Image, x: int, y: int) -> tuple[int, ...]:
    return tuple(np.asarray(picture)[y - 4 : y + 4, x - 4 : x + 4].reshape(-1, 3).mean(axis=0).round().astype(int))


def test_the_contact_sheet_shows_kept_ones_first_and_a_row_for_each_reason(oddity):
    cuts = oddity("cuts")
    none, some = Choice((), (), ()), cuts.choose(max_frames=3)
    heights = [cuts.take(choice).contact_sheet.height_px for choice in (none, all_kept(some), some)]
    assert heights[0] < 300 < heights[2]
    sheet = cuts.take(some).contact_sheet
    assert sheet.width_px <= 2_400
    with Image.open(cuts.folder / sheet.name) as picture, Image.open(cuts.folder / "frame-00.png") as still:
        # The first tile begins at (56, 222); its upper right has the plain colour of its scene.
        tile, there = colour_at(picture, 360, 300), colour_at(still, 135, 35)
        assert np.abs(np.subtract(tile, there)).max() < 60
        assert max(colour_at(picture, 20, 20)) < 30


def test_what_must_not_be_seen_is_not_on_the_contact_sheet(oddity):
    plain = oddity("plain")
    choice = plain.choose(max_frames=1)
    size = (slice(222, 400), slice(60, 380))

    def tile(*blurred: int) -> np.ndarray:
        plain.take(choice, blurred=blurred)
        with Image.open(plain.folder / "contact-sheet.jpg") as picture:
            return np.asarray(picture.convert("L")).astype(float)[size]

    shown, hidden = tile(), tile(choice.kept[0].index)
    assert np.abs(np.diff(shown, axis=1)).max() > 100  # the black and white cells in its middle
    assert np.abs(np.diff(hidden, axis=1)).max() < 12


def test_an_unsafe_still_is_hidden_without_being_told(oddity):
    plain = oddity("plain")
    first = plain.survey.candidates[0]

    def sheet(choice: Choice) -> np.ndarray:
        plain.take(choice)
        with Image.open(plain.folder / "contact-sheet.jpg") as picture:
            return np.asarray(picture.convert("L")).astype(float)[310:385, 70:210]

    shown = sheet(Choice((), (Rejected(first, "flat"),), ()))
    hidden = sheet(Choice((), (Rejected(first, "nsfw"),), ()))
    assert np.abs(np.diff(shown, axis=1)).max() > 100
    assert np.abs(np.diff(hidden, axis=1)).max() < 12


def test_progress_is_told_still_by_still(oddity):
    cuts, told = oddity("cuts"), []
    order = TakeOrder.of(
        cuts.clip.path, cuts.folder, cuts.survey, cuts.choose(max_frames=3), SETTINGS, output_format="jpeg"
    )
    take(order.to_dict(), told.append)
    assert told == [{"done": 1, "of": 3}, {"done": 2, "of": 3}, {"done": 3, "of": 3}]


def test_a_video_that_is_none_any_more_is_refused(oddity, tmp_path):
    cuts, path = oddity("cuts"), tmp_path / "gone.mp4"
    path.write_bytes(b"")
    order = TakeOrder.of(path, cuts.folder, cuts.survey, cuts.choose(), SETTINGS, output_format="png")
    with pytest.raises(WorkRefused):
        take(order.to_dict(), lambda _: None)
