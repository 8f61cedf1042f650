"""What is wanted and what came of it. Plain frozen dataclasses without torch: every process may import this file."""

from dataclasses import dataclass
from typing import Literal

OutputFormat = Literal["png", "jpeg", "webp"]

CONTENT_TYPES: dict[OutputFormat, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


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


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a request is; counted over all of its images."""

    step: int
    steps: int
    device_s: float = 0.0  # so far, as in GenerationResult

    @property
    def percent(self) -> int:
        return min(100, 100 * self.step // max(1, self.steps))


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
