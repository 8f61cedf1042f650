"""A tiny model with an engine on it, files for it to read, and how its pictures compare with plain diffusers'."""

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from configs.settings import EngineSettings, ModelSettings
from models.errors import AdapterGone, BlobNotFound
from models.loader import LoadedModel, load_model
from models.spec import Family
from pipelines.engine import Engine
from pipelines.families.base import Family as FamilyRunner
from pipelines.meter import EngineMeter
from pipelines.preparing import Sources
from pipelines.request import GeneratedImage, GenerationRequest, GenerationResult, LoraChoice, StoredFile
from tests.models.tiny import make_tiny_flux, make_tiny_sd, make_tiny_sdxl, tiny_spec
from tests.models.tiny_flow import make_tiny_qwen_image, make_tiny_sd3, make_tiny_z_image
from tests.models.tiny_loras import Format, Targets, make_lora
from tests.pipelines.reference import Pixels, plain_pixels

MAKERS: Mapping[Family, Callable[[Path], Path]] = {
    "sd": make_tiny_sd,
    "sdxl": make_tiny_sdxl,
    "flux": make_tiny_flux,
    "sd3": make_tiny_sd3,
    "z-image": make_tiny_z_image,
    "qwen-image": make_tiny_qwen_image,
}
# What plain diffusers cannot read for models as small as these; it gets the same adapter in its own naming.
UNREADABLE: Mapping[Family, tuple[Format, ...]] = {
    "sd": ("comfy",),
    "sdxl": ("comfy",),
    "flux": ("kohya", "comfy"),
    "sd3": ("kohya", "comfy"),
    "z-image": ("kohya", "comfy"),
    "qwen-image": (),
}
QUICK_START = EngineSettings(measure_rows=(1, 2, 4), measure_budget_s=0.5)
TOLERANCE = 2  # of 255, for every pixel
LEAST_PSNR_DB = 50.0
LEAST_SPREAD = 5.0  # a flat picture would prove nothing


class Shelf:
    """Files by their hash, where an object store would be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, data: bytes) -> StoredFile:
        digest = hashlib.sha256(data).hexdigest()
        (self.folder / digest).write_bytes(data)
        return StoredFile(key=f"test/{digest}", sha256=digest)

    def fetch(self, file: StoredFile) -> Path:
        path = self.folder / file.sha256
        if not path.exists():
            raise AdapterGone(f"nothing at {file.key}")
        return path

    def read(self, file: StoredFile) -> bytes:
        path = self.folder / file.sha256
        if not path.exists():
            raise BlobNotFound(f"nothing at {file.key}")
        return path.read_bytes()


@dataclass
class Recorder(EngineMeter):
    """Remembers what the engine told."""

    batches: list[tuple[int, int]] = field(default_factory=list)  # rows and samples of every step
    splits: list[str] = field(default_factory=list)

    def stepped(self, num_rows: int, num_samples: int, seconds: float, overhead_s: float) -> None:
        self.batches.append((num_rows, num_samples))

    def batch_split(self, reason: str) -> None:
        self.splits.append(reason)

    @property
    def largest_batch(self) -> int:
        """Samples in it."""
        return max((num_samples for _, num_samples in self.batches), default=0)


@dataclass(frozen=True)
class Bench:
    """One tiny model: its folder, as loaded, its engine, and what requests may point at."""

    folder: Path
    loaded: LoadedModel
    engine: Engine
    shelf: Shelf
    meter: Recorder = field(default_factory=Recorder)
    plain_files: dict[str, Path] = field(default_factory=dict)  # adapters by name, as plain diffusers reads them
    masks: dict[str, Image.Image] = field(default_factory=dict)  # by hash, white where painted anew

    @property
    def family(self) -> Family:
        return self.loaded.spec.family

    @property
    def runner(self) -> FamilyRunner:
        """What encodes, starts, steps and decodes for the engine."""
        return self.engine._preparer._family

    @property
    def has_negative_prompt(self) -> bool:
        return self.loaded.spec.limits.has_negative_prompt

    def start(self, settings: EngineSettings = QUICK_START, sources: Sources | None = None) -> "Bench":
        """Another engine on the same model, which the caller closes."""
        meter = Recorder()
        sources = sources or Sources(read=self.shelf.read, fetch=self.shelf.fetch)
        return replace(self, engine=Engine(self.loaded, settings, sources=sources, meter=meter), meter=meter)

    def request(self, **changes: object) -> GenerationRequest:
        fields: dict[str, object] = {
            "model_id": self.loaded.spec.id,
            "prompt": "a red apple",
            "negative_prompt": "blurry" if self.has_negative_prompt else "",
            "width_px": 64,
            "height_px": 32,
            "num_images": 1,
            "seed": 7,
            "num_inference_steps": 3,
            "guidance_scale": 4.0,
        }
        return GenerationRequest(**(fields | changes))

    def lora(
        self,
        name: str,
        *,
        scale: float = 1.0,
        format: Format = "peft",
        rank: int = 4,
        alpha: float | None = None,
        targets: Targets = "attention",
        seed: int = 0,
    ) -> LoraChoice:
        """An adapter on the shelf that changes pictures visibly, and its equal for plain diffusers."""
        path = self.shelf.folder / f"{self.family}-{name}.safetensors"
        options = {"rank": rank, "alpha": alpha, "targets": targets, "seed": seed}
        # Stronger ones make so small a model chaotic: plain diffusers itself is then at odds with itself.
        options["strength"] = 2.0 if targets == "attention" else 0.5
        make_lora(path, self.folder, self.family, format=format, **options)
        file = self.shelf.add(path.read_bytes())
        if format in UNREADABLE[self.family]:
            make_lora(path, self.folder, self.family, **options)
        self.plain_files[name] = path
        return LoraChoice(name, scale, file)

    def picture(self, seed: int = 0) -> StoredFile:
        """A colourful picture, neither square nor of a size that is asked for."""
        image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8))
        return self.shelf.add(as_png(image.resize((140, 100), Image.Resampling.BICUBIC)))

    def mask(self) -> StoredFile:
        """Transparent, so to be painted anew, in an oblong left of the middle."""
        repaint = np.zeros((100, 140), dtype=np.uint8)
        repaint[20:90, 10:80] = 255
        opaque = np.full((100, 140, 3), 90, dtype=np.uint8)
        file = self.shelf.add(as_png(Image.fromarray(np.dstack([opaque, 255 - repaint]))))
        self.masks[file.sha256] = Image.fromarray(repaint)
        return file

    def pixels(self, request: GenerationRequest) -> list[Pixels]:
        """The engine's pictures."""
        return pixels_of(self.engine.generate(request))

    def plain(self, request: GenerationRequest) -> list[Pixels]:
        """The same pictures, each made alone by plain diffusers."""
        image = Image.open(io.BytesIO(self.shelf.read(request.image))) if request.image else None
        mask = self.masks[request.mask.sha256] if request.mask else None
        return [
            plain_pixels(
                self.folder,
                self.family,
                replace(request, seed=request.image_seed(index)),
                image=image,
                mask=mask,
                lora_files=self.plain_files,
            )
            for index in range(request.num_images)
        ]


def make_bench(family: Family, base: Path) -> Bench:
    """A tiny model made, loaded and started; its caller closes the engine."""
    folder = MAKERS[family](base / family)
    spec = tiny_spec(family)
    settings = ModelSettings(dirs={spec.id: folder}, device="cpu", dtype="float32", num_threads=1)
    loaded = load_model(spec, settings, base / "state")
    shelf, meter = Shelf(base / f"{family}-shelf"), Recorder()
    engine = Engine(loaded, QUICK_START, sources=Sources(read=shelf.read, fetch=shelf.fetch), meter=meter)
    return Bench(folder, loaded, engine, shelf, meter)


def as_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def pixels_of(result: GenerationResult) -> list[Pixels]:
    return [picture_of(image) for image in result.images]


def picture_of(image: GeneratedImage) -> Pixels:
    with Image.open(io.BytesIO(image.data)) as picture:
        return np.asarray(picture.convert("RGB"))


def difference(ours: Pixels, theirs: Pixels) -> int:
    """The largest difference of any colour of any pixel."""
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())


def assert_equal_pictures(ours: list[Pixels], theirs: list[Pixels], what: str) -> None:
    """The promise: 2/255 in every pixel, and 50 dB over all of them."""
    assert len(ours) == len(theirs), what
    for mine, plain in zip(ours, theirs, strict=True):
        assert mine.shape == plain.shape, what
        assert plain.std() > LEAST_SPREAD, f"{what}: flat"
        error = np.mean((mine.astype(float) - plain.astype(float)) ** 2)
        psnr_db = 10 * np.log10(255**2 / max(error, 1e-9))
        worst = difference(mine, plain)
        assert worst <= TOLERANCE, f"{what}: a pixel is off by {worst}, {psnr_db:.1f} dB"
        assert psnr_db >= LEAST_PSNR_DB, f"{what}: {psnr_db:.1f} dB"
