"""What is wanted and what came of it. Plain frozen dataclasses without torch: every process may import this file."""

from dataclasses import dataclass
from typing import Literal

OutputFormat = Literal["png", "jpeg", "webp"]

CONTENT_TYPES: dict[OutputFormat, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


def num_run_steps(num_inference_steps: int, strength: float) -> int:
    """Steps that are really run: starting from a picture skips the first ones."""
    return min(int(num_inference_steps * strength), num_inference_steps)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Bytes in the object store that a request needs, and what they must hash to."""

    key: str
    sha256: str  # hex


@dataclass(frozen=True, slots=True)
class LoraChoice:
    """One adapter a request asks for, as `name` or `name@version`, and how strongly.

    Submission pins the name to a version and fills in `file`; the engine only looks at the file.
    """

    name: str
    scale: float = 1.0
    file: StoredFile | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Everything that decides the pixels, fully resolved: no field is left for the engine to guess.

    Image i of `num_images` uses seed + i and equals a request for one image with that seed.
    """

    model_id: str
    prompt: str
    negative_prompt: str
    width_px: int
    height_px: int
    num_images: int
    seed: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str | None = None  # None: the scheduler that the model's folder names
    loras: tuple[LoraChoice, ...] = ()
    image: StoredFile | None = None  # start from this picture instead of noise alone
    mask: StoredFile | None = None  # beside `image`; transparent where it is to be painted anew
    strength: float = 1.0  # 0–1, with `image`: the share of the steps that is run
    num_partial_images: int = 0  # unfinished pictures to show on the way, per image; changes no pixel of the result
    output_format: OutputFormat = "png"
    output_compression: int = 100  # 0–100, JPEG and WebP quality; PNG is always lossless

    def image_seed(self, index: int) -> int:
        """The seed of image `index`; wraps round so that it always fits what databases store."""
        return (self.seed + index) % 2**63

    @property
    def num_places(self) -> int:
        """How many places of a lane it takes: pictures are made side by side."""
        return self.num_images

    @property
    def total_steps(self) -> int:
        """Denoising steps over all images; an image to start from leaves only the last part of them to do."""
        return num_run_steps(self.num_inference_steps, self.strength) * self.num_images

    @property
    def work(self) -> float:
        """How much there is to do, in a unit of its own: pixels times steps."""
        return float(max(1, self.total_steps) * self.width_px * self.height_px)

    @property
    def inputs(self) -> tuple[StoredFile, ...]:
        """Files that were stored for this request alone and go when it is over."""
        return tuple(file for file in (self.image, self.mask) if file is not None)

    @property
    def needs(self) -> tuple[StoredFile, ...]:
        """Files without which it cannot begin."""
        return self.inputs


FacePreference = Literal["any", "prefer", "require"]
FRAMES = "frames"  # what stands in a model's place for the jobs that take stills out of videos


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


JobRequest = GenerationRequest | FramesRequest | TrainingRequest


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a request is; counted over all of its images, or in the steps of a training."""

    step: int
    steps: int
    device_s: float = 0.0  # so far, as in GenerationResult
    share: float | None = None  # 0–1, of all there is to do, where steps are not all of it
    stage: str | None = None  # of a training: frames, filter, caption, cache, train, validate or publish
    loss: float | None = None
    eta_s: float | None = None  # seconds to go, where the one at work knows

    @property
    def percent(self) -> int:
        done = self.step / max(1, self.steps) if self.share is None else self.share
        return min(100, int(100 * done + 1e-9))


@dataclass(frozen=True, slots=True)
class Preview:
    """What an unfinished picture looks like: small and cheap, or, as one of the partial images asked for, whole."""

    image_index: int
    step: int  # finished steps of this image
    data: bytes
    content_type: str
    partial_index: int | None = None  # 0, 1, …: counts the partial images of this image; None for a small preview


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """One finished picture as file bytes, with provenance inside."""

    data: bytes
    content_type: str
    width_px: int
    height_px: int
    seed: int
    sha256: str  # of data, hex


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """All pictures of a request and what they cost."""

    images: tuple[GeneratedImage, ...]
    engine_s: float  # from the engine taking the request up to the last encoded picture, waiting excluded
    waited_s: float  # in the engine's own queue
    device_s: float  # its share of the device's time: in what it shared with others, as much as it took of it


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


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """What an engine found in an adapter that it can use."""

    num_layers: int
    max_rank: int
    components: tuple[str, ...]  # of the model, such as "unet" and "text_encoder"
    num_bytes: int


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine has loaded."""

    model_id: str
    device: str
    dtype: str
    weights_sha256: str
    num_parameters: int
