"""What a survey found and what was chosen of it: plain data, checked when read. Knows no video and no OpenCV."""

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import Field, TypeAdapter, ValidationError

from pipelines.request import Face
from pipelines.video.info import VideoInfo
from pipelines.video.still import Crop

Reason = Literal[
    "transition",  # two scenes in one
    "too_dark",
    "too_bright",
    "flat",  # nothing in it
    "blurry",  # next to the rest of its scene, or less sharp than was asked for
    "no_face",  # where faces were required
    "nsfw",
    "duplicate",  # another one that shows the same is sharper
    "not_best",  # another one of the same part of its scene is sharper
    "over_quota",  # no room is left for its scene
]
REASONS: tuple[Reason, ...] = get_args(Reason)
Coverage = Literal["close", "medium", "full"]

# A face box reaches from the brows to the chin, 0.8 of a head; a body is 7.5 heads tall. Head and shoulders fill a
# still at three heads to its height, a body with some air above and below at six.
CLOSE_FROM = 0.8 / 3
MEDIUM_FROM = 0.8 / 6

MIN_HIGHLIGHTS, MIN_BRIGHTNESS, MAX_DARK_SHARE = 64.0, 6.0, 0.95
MAX_BRIGHTNESS, MAX_BRIGHT_SHARE = 235.0, 0.5
MIN_CONTRAST = 8.0

Share = Annotated[float, Field(ge=0, le=1)]
Luma = Annotated[float, Field(ge=0, le=255)]
Plain = TypeVar("Plain")
FileName = Annotated[str, Field(pattern=r"^[a-z0-9-]+\.(jpg|png|webp)$", max_length=64)]  # in the work's folder


class BadData(Exception):
    """What was read is not what it claims to be; it may come from a process that a hostile file took over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What the light in one still says about it; luma is 0–255."""

    sharpness: Annotated[float, Field(ge=0)]  # variance of the Laplacian of luma, at most 640 px on the longer side
    brightness: Luma  # mean
    highlights: Luma  # what 98 % of it does not exceed
    contrast: Annotated[float, Field(ge=0)]  # standard deviation of luma
    dark_share: Share  # of pixels that are black, or nearly
    bright_share: Share  # of pixels that are blown out

    @property
    def fault(self) -> Reason | None:
        """What is wrong with the exposure. A small thing in the light, in the dark, is a picture all the same."""
        if self.highlights < MIN_HIGHLIGHTS or self.brightness < MIN_BRIGHTNESS or self.dark_share > MAX_DARK_SHARE:
            return "too_dark"
        if self.brightness > MAX_BRIGHTNESS or self.bright_share > MAX_BRIGHT_SHARE:
            return "too_bright"
        return "flat" if self.contrast < MIN_CONTRAST else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate(Scores):
    """One still that was looked at. Stills half a second apart and of one scene share a moment; only the sharpest of
    them, of those with nothing wrong, is looked at for faces and described."""

    index: Annotated[int, Field(ge=0)]
    time_s: Annotated[float, Field(ge=0)]
    scene: Annotated[int, Field(ge=0)]
    moment: Annotated[int, Field(ge=0)]
    is_transition: bool  # in the middle of a fade or a dissolve
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    descriptor: Annotated[tuple[float, ...], Field(max_length=512)]  # length 1; empty where `faces` is None
    faces: Annotated[tuple[Face, ...], Field(max_length=64)] | None  # largest first; None: not the best of its moment
    thumbnail: FileName

    @property
    def is_best(self) -> bool:
        """Of its moment."""
        return self.faces is not None


@dataclass(frozen=True, slots=True)
class Survey:
    """All that one pass over a video has found, by time."""

    info: VideoInfo
    crop: Crop
    still_width_px: Annotated[int, Field(gt=0)]  # of the stills that were looked at; faces are in their pixels
    still_height_px: Annotated[int, Field(gt=0)]
    candidates: Annotated[tuple[Candidate, ...], Field(max_length=100_000)]
    num_damaged: Annotated[int, Field(ge=0)]
    has_face_detector: bool

    def __post_init__(self) -> None:
        if [one.index for one in self.candidates] != list(range(len(self.candidates))):
            raise ValueError("candidates are not numbered 0, 1, …")
        for left, right in pairwise(self.candidates):
            if left.time_s >= right.time_s or left.scene > right.scene or left.moment > right.moment:
                raise ValueError("candidates are not in the order of time")
        bests = [one.moment for one in self.candidates if one.is_best]
        if len(set(bests)) < len(bests):
            raise ValueError("a moment has two best ones")
        if len({len(one.descriptor) for one in self.candidates if one.is_best}) > 1:
            raise ValueError("descriptors differ in length")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Reads what `to_dict` wrote; raises BadData for anything else."""
        return read_plain(cls, data)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can say."""
        return write_plain(self)


@dataclass(frozen=True, slots=True)
class Rejected:
    """One that is not kept, and the one reason why."""

    candidate: Candidate
    reason: Reason


@dataclass(frozen=True, slots=True)
class Choice:
    """Every candidate of a survey, either kept or rejected; both by time."""

    kept: tuple[Candidate, ...]
    rejected: tuple[Rejected, ...]
    wants_nsfw: tuple[int, ...]  # indices of kept ones without a score: have them looked at and choose again

    @property
    def counts(self) -> dict[str, int]:
        """How many were kept, and how many rejected for each reason that occurs; together, all candidates."""
        reasons = [one.reason for one in self.rejected]
        return {"kept": len(self.kept)} | {reason: reasons.count(reason) for reason in REASONS if reason in reasons}


def coverage(faces: tuple[Face, ...], height_px: int) -> Coverage | None:
    """How much of a person a still that high shows, judged by its largest face; None without one."""
    if not faces:
        return None
    share = max(face.height for face in faces) / height_px
    if share >= CLOSE_FROM:
        return "close"
    return "medium" if share >= MEDIUM_FROM else "full"


def read_plain(kind: type[Plain], data: dict[str, Any]) -> Plain:
    """A dataclass out of what JSON can say, every field checked; raises BadData."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(data, allow_nan=False), strict=True)
    except (ValidationError, ValueError, TypeError) as error:
        raise BadData(f"This is no {kind.__name__}: {error}") from error


def write_plain(value: object) -> dict[str, Any]:
    """What `read_plain` reads."""
    data: dict[str, Any] = TypeAdapter(type(value)).dump_python(value, mode="json")
    return data
