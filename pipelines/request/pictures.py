"""Pictures that are wanted, and what came of it."""

from dataclasses import dataclass
from typing import Literal

from pipelines.request.files import StoredFile

OutputFormat = Literal["png", "jpeg", "webp"]

CONTENT_TYPES: dict[OutputFormat, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


def num_run_steps(num_inference_steps: int, strength: float) -> int:
    """Steps that are really run: starting from a picture skips the first ones."""
    return min(int(num_inference_steps * strength), num_inference_steps)


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
