"""What a picture measures: sharpness, brightness, what it looks like, faces. Runs where files may be decoded.

All are measured on the file that is learned from, with the means of pipelines.frames.scores, so that stills of videos
and pictures that were uploaded compare.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from models.errors import InputImageError
from pipelines.frames.faces import FaceFinder, open_face_finder
from pipelines.frames.scores import Picture, describe, luma, score, shrink
from pipelines.moderation.opening import open_to_look
from pipelines.request import Face
from pipelines.work import WorkRefused
from training.stills import Still

FACE_LOOK_PX = 640  # as long as the stills that videos are searched in
DIGITS = 6


@dataclass(frozen=True, slots=True)
class Measures:
    """Of one picture, as JSON can say it."""

    sharpness: float
    brightness: float  # 0–255
    descriptor: tuple[float, ...]  # length 1; the product of two is their cosine
    faces: tuple[Face, ...] | None  # None: nobody looked

    def to_dict(self) -> dict[str, Any]:
        """For a mark."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Inverse of to_dict(), also after a way through JSON."""
        faces = None if fields["faces"] is None else tuple(Face(**face) for face in fields["faces"])
        return cls(**{**fields, "descriptor": tuple(fields["descriptor"]), "faces": faces})


def make_measure(folder: Path) -> Callable[[Still], Measures]:
    """What measures the stills of a folder; raises WorkRefused for one that is damaged or another one."""
    finder = open_face_finder(None)

    def measure(still: Still) -> Measures:
        data = (folder / still.file).read_bytes()
        if hashlib.sha256(data).hexdigest() != still.sha256:
            raise WorkRefused("upload_changed", f"{still.file} is not the picture that it was.")
        try:
            rgb = np.asarray(open_to_look(data), dtype=np.uint8)
        except InputImageError as error:
            raise WorkRefused(error.code, f"{still.file}: {error}") from error
        scores = score(luma(rgb))
        return Measures(
            sharpness=round(scores.sharpness, DIGITS),
            brightness=round(scores.brightness, DIGITS),
            descriptor=tuple(round(float(number), DIGITS) for number in describe(rgb)),
            faces=still.faces if still.faces or (still.kind == "video" and finder) else _faces(rgb, finder),
        )

    return measure


def _faces(rgb: Picture, finder: FaceFinder | None) -> tuple[Face, ...] | None:
    """In pixels of the picture itself."""
    if finder is None:
        return None
    small = shrink(rgb, FACE_LOOK_PX)
    across, down = rgb.shape[1] / small.shape[1], rgb.shape[0] / small.shape[0]
    return tuple(
        Face(round(f.x * across), round(f.y * down), round(f.width * across), round(f.height * down), f.score)
        for f in finder.find(small)
    )
