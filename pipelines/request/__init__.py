"""What is wanted and what came of it. Plain frozen dataclasses without torch: every process may import this package."""

from pipelines.request.files import (
    StoredFile,
)
from pipelines.request.frames import (
    FRAMES,
    MOMENT_S,
    Face,
    FacePreference,
    FramesRequest,
    FramesResult,
    RejectedFrame,
    StoredFrame,
)
from pipelines.request.pictures import (
    CONTENT_TYPES,
    AdapterReport,
    EngineInfo,
    GeneratedImage,
    GenerationRequest,
    GenerationResult,
    LoraChoice,
    OutputFormat,
    Preview,
    num_run_steps,
)
from pipelines.request.progress import (
    Progress,
)
from pipelines.request.trainings import (
    TRAINING,
    CaptionMode,
    Curve,
    SourceKind,
    StoredSample,
    TrainedAdapter,
    TrainingQuality,
    TrainingRequest,
    TrainingResult,
    TrainingSample,
    TrainingSource,
)

__all__ = [
    "AdapterReport",
    "CONTENT_TYPES",
    "CaptionMode",
    "Curve",
    "EngineInfo",
    "FRAMES",
    "Face",
    "FacePreference",
    "FramesRequest",
    "FramesResult",
    "GeneratedImage",
    "GenerationRequest",
    "GenerationResult",
    "JobRequest",
    "MOMENT_S",
    "LoraChoice",
    "OutputFormat",
    "Preview",
    "Progress",
    "RejectedFrame",
    "SourceKind",
    "StoredFile",
    "StoredFrame",
    "StoredSample",
    "TRAINING",
    "TrainedAdapter",
    "TrainingQuality",
    "TrainingRequest",
    "TrainingResult",
    "TrainingSample",
    "TrainingSource",
    "num_run_steps",
]

JobRequest = GenerationRequest | FramesRequest | TrainingRequest
