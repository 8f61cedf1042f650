"""Faces in a still, with what OpenCV has: YuNet where its file is given, else Haar cascades, else none.

OpenCV 4 brings the cascades along, OpenCV 5 does not. Knows no video; boxes are in pixels of the still.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from pipelines.frames.scores import Picture, luma, shrink
from pipelines.request import Face

MIN_FACE_PX = 24  # smaller ones are of no use
MIN_FACE_SHARE = 1 / 15  # of the shorter side

# The two frontal cascades were trained apart and err in different places: one finds, leniently, the other one confirms
# at close range. On a person signing they agree in 84 of 85 stills.
FINDER, CONFIRMER, PROFILE = "frontalface_default", "frontalface_alt", "profileface"
FINDER_STEP, FINDER_NEIGHBOURS = 1.1, 3
CONFIRMER_STEP, CONFIRMER_NEIGHBOURS = 1.1, 2
CLOSE_UP_PX, CLOSE_UP_MARGIN, CLOSE_UP_MIN_FACE_PX = 160, 0.35, 64
# This cascade is the slowest and errs most: it searches a smaller still, in larger steps, and must be clear.
PROFILE_LOOK_PX, PROFILE_MIN_FACE_PX = 320, 32
PROFILE_STEP, PROFILE_NEIGHBOURS, PROFILE_CONFIRMING_NEIGHBOURS = 1.2, 3, 5
MIN_PROFILE_WEIGHT = 0.6
HALF_SURE_WEIGHT = 2.0  # gives a score of 0.5
MIN_FACE_CONTRAST = 16.0  # standard deviation of luma; in what is nearly black cascades see anything
MAX_FACES = 64

YUNET_SCORE = 0.7
YUNET_OVERLAP = 0.3

SAME_FACE_OVERLAP = 0.3  # of the smaller of two boxes


class _Box(NamedTuple):
    x: int
    y: int
    width: int
    height: int
    score: float  # of a cascade: by how much its last stage was passed


class FaceFinder(Protocol):
    """Finds faces in one still; largest first."""

    def find(self, rgb: Picture) -> tuple[Face, ...]:
        """Boxes in pixels of the still, scores from 0 to 1."""
        ...


def open_face_finder(yunet_path: Path | None) -> FaceFinder | None:
    """The best detector there is; None where OpenCV has none and no file is given."""
    if yunet_path is not None:
        return YuNet(yunet_path)
    folder = Path(getattr(getattr(cv2, "data", None), "haarcascades", ""))
    if not hasattr(cv2, "CascadeClassifier") or not _cascade_path(folder, FINDER).is_file():
        return None
    return Cascades(folder)


class YuNet:
    """A small convolutional network (Wu, Peng, Yu, "YuNet: a tiny millisecond-level face detector", 2023)."""

    def __init__(self, path: Path) -> None:
        self._detector = cv2.FaceDetectorYN.create(str(path), "", (320, 320), YUNET_SCORE, YUNET_OVERLAP)

    def find(self, rgb: Picture) -> tuple[Face, ...]:
        """What it is sure of."""
        height, width = rgb.shape[:2]
        self._detector.setInputSize((width, height))
        _, rows = self._detector.detect(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        return _as_faces([] if rows is None else [_box(row[:4], row[14]) for row in rows], rgb)


class Cascades:
    """Haar cascades (Viola and Jones, 2001): frontal faces, and profiles where there is no frontal one."""

    def __init__(self, folder: Path) -> None:
        self._finder, self._confirmer, self._profile = (
            cv2.CascadeClassifier(str(_cascade_path(folder, name))) for name in (FINDER, CONFIRMER, PROFILE)
        )

    def find(self, rgb: Picture) -> tuple[Face, ...]:
        """What two looks agree on. The score says how clearly the last stage of a cascade was passed: it orders
        faces, and is no probability."""
        grey = luma(rgb)
        boxes = self._frontal(grey) or self._profiles(grey)
        return _as_faces([box._replace(score=box.score / (box.score + HALF_SURE_WEIGHT)) for box in boxes], rgb)

    def _frontal(self, grey: Picture) -> list[_Box]:
        side = max(MIN_FACE_PX, round(MIN_FACE_SHARE * min(grey.shape)))
        boxes = _search(grey, self._finder, FINDER_STEP, FINDER_NEIGHBOURS, side)
        return [box for box in boxes if _sees(grey, box, self._confirmer, CONFIRMER_NEIGHBOURS)]

    def _profiles(self, grey: Picture) -> list[_Box]:
        small = shrink(grey, PROFILE_LOOK_PX)
        scale = grey.shape[1] / small.shape[1]
        faces = self._facing_left(small)
        if not faces:
            mirrored = self._facing_left(np.ascontiguousarray(small[:, ::-1]))
            faces = [box._replace(x=small.shape[1] - box.x - box.width) for box in mirrored]
        return [_box([scale * edge for edge in box[:4]], box.score) for box in faces]

    def _facing_left(self, grey: Picture) -> list[_Box]:
        boxes = _search(grey, self._profile, PROFILE_STEP, PROFILE_NEIGHBOURS, PROFILE_MIN_FACE_PX)
        clear = [box for box in boxes if box.score >= MIN_PROFILE_WEIGHT]
        return [box for box in clear if _sees(grey, box, self._profile, PROFILE_CONFIRMING_NEIGHBOURS)]


def _search(
    grey: Picture, cascade: cv2.CascadeClassifier, step: float, num_neighbours: int, min_side_px: int
) -> list[_Box]:
    boxes, _, weights = cascade.detectMultiScale3(
        grey, step, num_neighbours, 0, (min_side_px, min_side_px), outputRejectLevels=True
    )
    found = [_box(box, weight) for box, weight in zip(boxes, np.ravel(weights), strict=True)]
    return [box for box in found if box.score > 0 and _cut(grey, box).std() >= MIN_FACE_CONTRAST]


def _sees(grey: Picture, box: _Box, cascade: cv2.CascadeClassifier, num_neighbours: int) -> bool:
    """Whether it finds a face where another look found one, enlarged."""
    around = _cut(grey, box, margin=CLOSE_UP_MARGIN)
    size = (CLOSE_UP_PX, max(1, round(CLOSE_UP_PX * around.shape[0] / around.shape[1])))
    close_up = cv2.resize(around, size, interpolation=cv2.INTER_LINEAR)
    least = (CLOSE_UP_MIN_FACE_PX, CLOSE_UP_MIN_FACE_PX)
    return len(cascade.detectMultiScale(close_up, CONFIRMER_STEP, num_neighbours, 0, least)) > 0


def _cascade_path(folder: Path, name: str) -> Path:
    return folder / f"haarcascade_{name}.xml"


def _box(edges: Sequence[float], score: float) -> _Box:
    x, y, width, height = (round(float(edge)) for edge in edges)
    return _Box(x, y, width, height, float(score))


def _cut(grey: Picture, box: _Box, *, margin: float = 0.0) -> Picture:
    across, down = round(margin * box.width), round(margin * box.height)
    rows = slice(max(0, box.y - down), box.y + box.height + down)
    return grey[rows, max(0, box.x - across) : box.x + box.width + across]


def _as_faces(boxes: list[_Box], rgb: Picture) -> tuple[Face, ...]:
    """Within the still, one for each face, largest first."""
    height, width = rgb.shape[:2]
    faces: list[Face] = []
    for box in sorted(boxes, key=lambda box: -box.score):
        x, y, right, bottom = (
            max(0, box.x),
            max(0, box.y),
            min(width, box.x + box.width),
            min(height, box.y + box.height),
        )
        if right <= x or bottom <= y:
            continue
        face = Face(x, y, right - x, bottom - y, round(min(1.0, max(0.0, box.score)), 4))
        if not any(_overlap(face, other) > SAME_FACE_OVERLAP for other in faces):
            faces.append(face)
    return tuple(sorted(faces, key=lambda face: -face.height)[:MAX_FACES])


def _overlap(left: Face, right: Face) -> float:
    across = min(left.x + left.width, right.x + right.width) - max(left.x, right.x)
    down = min(left.y + left.height, right.y + right.height) - max(left.y, right.y)
    return max(0, across) * max(0, down) / min(left.width * left.height, right.width * right.height)
