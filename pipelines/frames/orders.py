"""What the two works on a video are asked for, and what the second one answers. Plain data; loads no decoder."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from configs.settings.intake import FrameSettings
from pipelines.frames.candidates import (
    Candidate,
    Choice,
    Coverage,
    FileName,
    Reason,
    Survey,
    coverage,
    read_plain,
    write_plain,
)
from pipelines.request import MOMENT_S, Face, OutputFormat
from pipelines.video.still import Crop

SURVEY_WORK = "pipelines.frames.survey:survey"
TAKE_WORK = "pipelines.frames.taking:take"


@dataclass(frozen=True, slots=True)
class SurveyOrder:
    """Look at the video at `path`; thumbnails go into `folder`."""

    path: str
    folder: str
    hz: float
    moment_s: float  # of which one still at most is looked at for faces, described, and may be kept
    max_surveyed: int
    side_px: int
    num_threads: int
    hardware: Literal["auto", "off"]
    yunet_path: str | None

    @classmethod
    def of(cls, path: Path, folder: Path, settings: FrameSettings, *, moment_s: float = MOMENT_S) -> Self:
        """As the settings say."""
        return cls(
            path=str(path),
            folder=str(folder),
            hz=settings.survey_hz,
            moment_s=moment_s,
            max_surveyed=settings.max_surveyed,
            side_px=settings.survey_side_px,
            num_threads=settings.num_threads,
            hardware=settings.hardware,
            yunet_path=str(settings.yunet_path) if settings.yunet_path else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """The arguments of SURVEY_WORK."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One still to take. Its faces are in shares of its width and height, so that they fit any size."""

    index: int
    time_s: float
    sharpness: float
    coverage: Coverage | None
    faces: tuple[tuple[float, float, float, float, float], ...]  # left, top, width, height; score


@dataclass(frozen=True, slots=True)
class Unwanted:
    """One that only the contact sheet shows."""

    index: int
    time_s: float
    reason: Reason
    thumbnail: FileName


@dataclass(frozen=True, slots=True)
class TakeOrder:
    """Take these stills out of the video at `path`; files go into `folder`, where the thumbnails are."""

    path: str
    folder: str
    title: str  # above the contact sheet; empty: how many were kept
    crop: Crop
    kept: tuple[Wanted, ...]
    rejected: tuple[Unwanted, ...]
    blurred: tuple[int, ...]  # indices of those that the contact sheet must not show
    format: OutputFormat
    num_threads: int
    hardware: Literal["auto", "off"]

    @classmethod
    def of(
        cls,
        path: Path,
        folder: Path,
        survey: Survey,
        choice: Choice,
        settings: FrameSettings,
        *,
        output_format: OutputFormat,
        title: str = "",
        blurred: tuple[int, ...] = (),
    ) -> Self:
        """What was chosen of a survey of the same file."""
        return cls(
            path=str(path),
            folder=str(folder),
            title=title,
            crop=survey.crop,
            kept=tuple(_wanted(one, survey) for one in choice.kept),
            rejected=tuple(
                Unwanted(one.candidate.index, one.candidate.time_s, one.reason, one.candidate.thumbnail)
                for one in choice.rejected
            ),
            blurred=blurred,
            format=output_format,
            num_threads=settings.num_threads,
            hardware=settings.hardware,
        )

    def to_dict(self) -> dict[str, Any]:
        """The arguments of TAKE_WORK."""
        return write_plain(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Reads what `to_dict` wrote."""
        return read_plain(cls, data)


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """One picture in the folder of the work."""

    name: FileName
    num_bytes: Annotated[int, Field(gt=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    width_px: Annotated[int, Field(gt=0)]
    height_px: Annotated[int, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class TakenStill:
    """One full-size still."""

    index: int  # of the candidate
    time_s: Annotated[float, Field(ge=0)]
    file: WrittenFile
    faces: Annotated[tuple[Face, ...], Field(max_length=64)]  # in pixels of the file
    coverage: Coverage | None


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of a TakeOrder, by time."""

    stills: tuple[TakenStill, ...]
    contact_sheet: WrittenFile

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Reads what TAKE_WORK returned; raises BadData for anything else."""
        return read_plain(cls, data)


def _wanted(one: Candidate, survey: Survey) -> Wanted:
    width, height = survey.still_width_px, survey.still_height_px
    faces = one.faces or ()
    return Wanted(
        index=one.index,
        time_s=one.time_s,
        sharpness=one.sharpness,
        coverage=coverage(faces, height),
        faces=tuple((f.x / width, f.y / height, f.width / width, f.height / height, f.score) for f in faces),
    )
