"""Faces on real photographs, with what OpenCV brings along, with YuNet, and with nothing."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray

from pipelines.frames.faces import FaceFinder, YuNet, open_face_finder
from pipelines.request import Face

Pixels = NDArray[np.uint8]
ASTRONAUT = (177, 66, 95, 95)  # x, y, width, height of her face in the photograph


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    finder = open_face_finder(None)
    if finder is None:
        pytest.skip("this OpenCV brings no cascades along")
    return finder


def is_at(face: Face, box: tuple[float, float, float, float]) -> bool:
    middles = ((face.x + face.width / 2, face.y + face.height / 2), (box[0] + box[2] / 2, box[1] + box[3] / 2))
    near = all(abs(left - right) < 0.25 * box[2] for left, right in zip(*middles, strict=True))
    return near and 0.7 < face.height / box[3] < 1.4


def test_a_face_is_found_once_and_where_it_is(finder):
    faces = finder.find(skimage.data.astronaut())
    assert len(faces) == 1
    assert is_at(faces[0], ASTRONAUT)
    assert 0.5 < faces[0].score <= 1


def test_the_largest_of_several_faces_comes_first(finder):
    astronaut = skimage.data.astronaut()
    half = cv2.resize(astronaut, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    both = np.zeros((512, 768, 3), np.uint8)
    both[:256, :256], both[:, 256:] = half, astronaut
    heights = [face.height for face in finder.find(both)]
    assert len(heights) == 2
    assert heights[0] > 1.5 * heights[1]


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_a_profile_is_found_from_either_side(finder, is_mirrored):
    photographer = np.repeat(skimage.data.camera()[..., None], 3, axis=2)
    faces = finder.find(np.ascontiguousarray(photographer[:, ::-1]) if is_mirrored else photographer)
    assert len(faces) == 1
    middle = faces[0].x + faces[0].width / 2
    assert abs((512 - middle if is_mirrored else middle) - 230) < 40
    assert faces[0].y < 200


@pytest.mark.parametrize(
    "name", ["coffee", "chelsea", "rocket", "brick", "grass", "gravel", "hubble_deep_field", "text"]
)
def test_there_is_no_face_where_nobody_is(finder, name):
    picture = getattr(skimage.data, name)()
    rgb = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    scale = min(1.0, 640 / max(rgb.shape))
    assert finder.find(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)) == ()


def test_noise_in_the_dark_has_no_face(finder):
    dark = np.random.default_rng(4).integers(4, 30, (360, 640, 3)).astype(np.uint8)
    assert finder.find(dark) == ()


@pytest.mark.parametrize("size", [(1, 1), (8, 200), (23, 40)])
def test_stills_smaller_than_a_face_have_none(finder, size):
    assert finder.find(np.full((*size, 3), 90, np.uint8)) == ()


def test_an_opencv_without_cascades_finds_no_faces_and_says_so(monkeypatch):
    monkeypatch.delattr(cv2, "CascadeClassifier")
    assert open_face_finder(None) is None


def test_an_opencv_without_its_cascade_files_finds_no_faces_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(cv2.data, "haarcascades", str(tmp_path))
    assert open_face_finder(None) is None


class FakeYuNet:
    """Stands where OpenCV's detector would: the same calls, rows as it gives them."""

    def __init__(self, rows: NDArray[np.float32] | None) -> None:
        self._rows = rows
        self._size: tuple[int, int] | None = None

    def setInputSize(self, size: tuple[int, int]) -> None:  # noqa: N802 - OpenCV's name
        self._size = size

    def detect(self, bgr: Pixels) -> tuple[int, NDArray[np.float32] | None]:
        if self._size != (bgr.shape[1], bgr.shape[0]):
            raise cv2.error("Size does not match. Call setInputSize(size) if input size does not match the preset size")
        return 1, self._rows


def row(x: float, y: float, width: float, height: float, score: float) -> list[float]:
    return [x, y, width, height, *[0.0] * 10, score]


def yunet(monkeypatch: pytest.MonkeyPatch, rows: NDArray[np.float32] | None) -> FaceFinder:
    def create(path: str, *_: Any) -> FakeYuNet:
        assert path == "yunet.onnx"
        return FakeYuNet(rows)

    monkeypatch.setattr(cv2.FaceDetectorYN, "create", create)
    finder = open_face_finder(Path("yunet.onnx"))
    assert isinstance(finder, YuNet)
    return finder


def test_yunet_is_used_where_its_file_is_given(monkeypatch):
    rows = np.array([row(10.4, 20.6, 30.0, 40.0, 0.91), row(100, 10, 60, 80, 0.75)], np.float32)
    faces = yunet(monkeypatch, rows).find(np.zeros((200, 300, 3), np.uint8))
    assert faces == (Face(100, 10, 60, 80, 0.75), Face(10, 21, 30, 40, 0.91))


def test_boxes_that_reach_past_the_still_are_cut(monkeypatch):
    rows = np.array([row(-20, -10, 50, 60, 0.9), row(290, 190, 50, 60, 0.9), row(400, 10, 20, 20, 0.9)], np.float32)
    faces = yunet(monkeypatch, rows).find(np.zeros((200, 300, 3), np.uint8))
    assert [(f.x, f.y, f.width, f.height) for f in faces] == [(0, 0, 30, 50), (290, 190, 10, 10)]


def test_yunet_that_finds_nothing_gives_nothing(monkeypatch):
    assert yunet(monkeypatch, None).find(np.zeros((200, 300, 3), np.uint8)) == ()


def test_a_missing_yunet_file_is_not_passed_over(tmp_path):
    with pytest.raises(cv2.error):
        open_face_finder(tmp_path / "missing.onnx")
