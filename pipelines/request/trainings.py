"""A LoRA that is wanted, and what came of it."""

from dataclasses import dataclass
from typing import Literal

from pipelines.request.files import StoredFile
from pipelines.request.pictures import GeneratedImage

CaptionMode = Literal["template", "model", "none"]
SourceKind = Literal["video", "image"]
TRAINING = "training"  # what stands in a model's place for the jobs that train LoRAs


@dataclass(frozen=True, slots=True)
class TrainingSource:
    """An upload to learn from."""

    upload_id: str
    kind: SourceKind
    file: StoredFile
    duration_s: float = 0.0  # of a video


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """Everything that decides the weights of a LoRA, fully resolved."""

    name: str
    base_model: str
    trigger: str
    caption: CaptionMode
    recipe: str  # its name
    recipe_json: str  # training.recipe.Recipe with all that the request changed: what comes later changes no job
    steps: int
    rank: int
    resolution_px: int
    seed: int
    sources: tuple[TrainingSource, ...] = ()
    dataset: str | None = None  # prefix of the keys of an earlier job's dataset, to train on instead of sources
    captions: tuple[tuple[str, str], ...] = ()  # (file name, text): said instead of what `caption` would say
    model_id: str = TRAINING

    @property
    def num_places(self) -> int:
        return 1

    @property
    def total_steps(self) -> int:
        """Optimizer steps; it may stop earlier, when it gets no better."""
        return self.steps

    @property
    def work(self) -> float:
        """How much there is to do, in a unit of its own: steps times pixels."""
        return float(max(1, self.steps) * self.resolution_px**2)

    @property
    def inputs(self) -> tuple[StoredFile, ...]:
        """None: uploads belong to the tenant and stay."""
        return ()

    @property
    def needs(self) -> tuple[StoredFile, ...]:
        """Files without which it cannot begin."""
        return tuple(source.file for source in self.sources)


Curve = tuple[tuple[int, float], ...]  # (step, value)


@dataclass(frozen=True, slots=True)
class TrainingQuality:
    """What a LoRA was proven to do, on frames that it was not trained on."""

    validation_loss_before: float  # of the base model
    validation_loss_after: float  # of the weights that were kept
    distance_before: float | None  # mean colour-structure distance of pictures to held-out frames; None: no sampling
    distance_after: float | None
    best_step: int  # whose weights were kept
    num_held_out: int


@dataclass(frozen=True, slots=True)
class TrainingSample:
    """A picture made on the way, as file bytes."""

    image: GeneratedImage
    prompt: str
    step: int  # 0: by the base model alone


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """What a training has made; its file waits for its place."""

    file: StoredFile  # diffusers keys, proven to load
    num_bytes: int
    weights_sha256: str  # of the base model
    dataset: str  # prefix of the keys of images, captions, rejected.jsonl and manifest.json
    manifest: StoredFile
    frames_used: int
    frames_rejected: tuple[tuple[str, int], ...]  # (reason, how many)
    loss: Curve
    validation_loss: Curve
    quality: TrainingQuality | None  # None: trained by a provider
    samples: tuple[TrainingSample, ...]
    loss_plot: bytes | None  # PNG
    engine_s: float
    waited_s: float
    device_s: float


@dataclass(frozen=True, slots=True)
class StoredSample:
    """A picture made on the way, by reference."""

    key: str
    content_type: str
    num_bytes: int
    sha256: str  # hex
    width_px: int
    height_px: int
    seed: int
    prompt: str
    step: int
    is_nsfw: bool | None = None


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A LoRA that is published, and what speaks for it."""

    adapter: str  # name@version
    key: str  # of its file
    sha256: str  # hex
    num_bytes: int
    dataset: str  # key of its manifest.json
    trigger: str
    frames_used: int
    frames_rejected: tuple[tuple[str, int], ...]
    loss: Curve
    validation_loss: Curve
    quality: TrainingQuality | None
    samples: tuple[StoredSample, ...]
    loss_plot: str | None  # key of a PNG
    engine_s: float
    waited_s: float
    device_s: float

    @property
    def keys(self) -> tuple[str, ...]:
        """What belongs to the job alone: nothing, for all of it belongs to the version from now on."""
        return ()
