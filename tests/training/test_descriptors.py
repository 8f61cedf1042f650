"""What is measured of a picture: alike for stills and uploads, by what people see of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.request import Face
from pipelines.work import WorkRefused
from tests.training.stills import blurred, flat, lay, png, scenery
from training.descriptors import Measures, make_measure


def cosine(one: Measures, other: Measures) -> float:
    return float(np.dot(one.descriptor, other.descriptor))


def test_blur_darkness_and_another_scene_show_in_the_numbers(tmp_path: Path) -> None:
    measure = make_measure(tmp_path / "stills")
    sharp, soft, other, dark = (
        measure(lay(tmp_path, f"{number}.png", image))
        for number, image in enumerate((scenery(1), blurred(scenery(1)), scenery(2), flat(5)))
    )
    assert soft.sharpness < 0.1 * sharp.sharpness
    assert dark.brightness == pytest.approx(5, abs=1)
    assert cosine(sharp, other) < 0.9 < 0.999 < cosine(sharp, sharp)


def test_a_still_and_the_same_picture_uploaded_measure_the_same(tmp_path: Path) -> None:
    measure = make_measure(tmp_path / "stills")
    still = lay(tmp_path, "a.png", scenery(3, (320, 240)))
    upload = lay(tmp_path, "b.png", png(scenery(3, (320, 240)), compress_level=1), kind="image", upload_id="upl_2")
    assert still.sha256 != upload.sha256
    assert replace(measure(still), faces=None) == replace(measure(upload), faces=None)


def test_a_smaller_copy_looks_the_same(tmp_path: Path) -> None:
    measure = make_measure(tmp_path / "stills")
    large = lay(tmp_path, "a.png", scenery(4, (720, 480)).resize((720, 480)))
    small = lay(tmp_path, "b.webp", scenery(4, (720, 480)).resize((360, 240), Image.Resampling.LANCZOS))
    assert cosine(measure(large), measure(small)) > 0.99


def test_faces_of_a_video_are_those_that_its_search_found(tmp_path: Path) -> None:
    face = Face(3, 4, 30, 30, 0.8)
    still = lay(tmp_path, "a.png", scenery(1), faces=(face,))
    assert make_measure(tmp_path / "stills")(still).faces == (face,)


def test_measures_come_back_from_json_as_they_were(tmp_path: Path) -> None:
    measures = make_measure(tmp_path / "stills")(lay(tmp_path, "a.png", scenery(1), faces=(Face(1, 2, 3, 4, 0.5),)))
    assert Measures.from_dict(measures.to_dict()) == measures


def test_a_file_that_is_not_the_one_that_was_stored_is_refused(tmp_path: Path) -> None:
    still = lay(tmp_path, "a.png", scenery(1))
    (tmp_path / "stills" / "a.png").write_bytes(png(scenery(2)))
    with pytest.raises(WorkRefused, match="a.png is not the picture that it was"):
        make_measure(tmp_path / "stills")(still)


def test_a_damaged_picture_is_refused_by_its_name(tmp_path: Path) -> None:
    still = lay(tmp_path, "a.png", png(scenery(1))[:200])
    with pytest.raises(WorkRefused, match=r"a\.png: ") as caught:
        make_measure(tmp_path / "stills")(still)
    assert caught.value.code == "bad_image"
