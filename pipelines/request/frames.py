"""Stills of a video that are wanted, and what came of it."""

from dataclasses import dataclass
from typing import Literal

from pipelines.request.files import StoredFile
from pipelines.request.pictures import OutputFormat

FacePreference = Literal["any", "prefer", "require"]
FRAMES = "frames"  # what stands in a model's place for the jobs that take stills out of videos
MOMENT_S = 0.5  # of which one still at most is kept


@dataclass(frozen=True, slots=True)
class FramesRequest:
    """Which stills of a video are wanted."""

    upload_id: str
    video: StoredFile
    duration_s: float
    max_frames: int
    min_sharpness: float | None = None  # None: only the blurred part of each scene goes
    faces: FacePreference = "any"
    dedupe: bool = True
    output_format: OutputFormat = "jpeg"
    moment_s: float = MOMENT_S
    model_id: str = FRAMES

    @property
    def num_places(self) -> int:
        return 1

    @property
    def total_steps(self) -> int:
        return 100  # its progress is told in percent

    @property
    def work(self) -> float:
        """How much there is to do, in a unit of its own: seconds of video."""
        return max(1.0, self.duration_s)

    @property
    def inputs(self) -> tuple[StoredFile, ...]:
        """None: the upload belongs to the tenant and stays."""
        return ()

    @property
    def needs(self) -> tuple[StoredFile, ...]:
        """Files without which it cannot begin."""
        return (self.video,)


@dataclass(frozen=True, slots=True)
class Face:
    """Where a face is, in pixels of the still it was found in."""

    x: int
    y: int
    width: int
    height: int
    score: float  # 0–1


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """One still that was kept, by reference, with its scores."""

    key: str
    content_type: str
    num_bytes: int
    sha256: str  # hex
    width_px: int
    height_px: int
    time_s: float  # from the first frame of the video
    scene: int  # 0, 1, …
    sharpness: float
    brightness: float  # 0–255, mean luma
    coverage: str | None  # of the largest face: close, medium or full; None without a face
    faces: tuple[Face, ...] = ()
    nsfw: float | None = None  # None: not looked at
    is_nsfw: bool | None = None


@dataclass(frozen=True, slots=True)
class RejectedFrame:
    """One still that was not kept, and the one reason why."""

    time_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class FramesResult:
    """The stills of a video."""

    frames: tuple[StoredFrame, ...]
    rejected: tuple[RejectedFrame, ...]
    contact_sheet: str  # key of a JPEG
    engine_s: float  # from taking the request up to the last stored still, waiting excluded
    waited_s: float
    device_s: float  # seconds of the decoder, counted like those of a GPU

    @property
    def keys(self) -> tuple[str, ...]:
        """Everything it stored."""
        return (*(frame.key for frame in self.frames), self.contact_sheet)
