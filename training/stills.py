"""Still: a picture that may be learned from, as it lies in a folder before anything was decided. Plain data."""

from dataclasses import dataclass
from typing import Any, Self

from pipelines.request import Face, SourceKind


@dataclass(frozen=True, slots=True)
class Still:
    """A still of a video, or a picture that was uploaded."""

    file: str  # name in the folder of stills
    sha256: str  # of the file, hex
    width_px: int
    height_px: int
    upload_id: str
    upload_sha256: str
    kind: SourceKind
    time_s: float | None = None  # of a video's
    sharpness: float | None = None  # None: not measured yet
    brightness: float | None = None  # 0–255
    faces: tuple[Face, ...] = ()
    is_nsfw: bool = False

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Inverse of dataclasses.asdict(), also after a way through JSON."""
        return cls(**{**fields, "faces": tuple(Face(**face) for face in fields["faces"])})
