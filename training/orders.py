"""What the works of a training are asked for and what they answer: plain data that crosses a process border as JSON.

Files lie in one folder: stills/ (before), dataset/ (training.dataset), checkpoint.safetensors, out/ and previews/.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

PREPARE_WORK = "training.prepare:prepare"
CAPTIONED_PREPARE_WORK = "training.captioner:prepare_with_captioner"
TRAIN_WORK = "training.work:train"
MEASURE_WORK = "training.work:measure"
STILLS, DATASET, OUT, PREVIEWS = "stills", "dataset", "out", "previews"
CHECKPOINT = "checkpoint.safetensors"
ADAPTER, LOSS_PLOT, LOSS_DATA = "adapter.safetensors", "loss.png", "loss.json"  # in OUT

Stage = Literal["frames", "filter", "caption", "cache", "train", "validate", "publish"]

# What a work tells on the way, each a JSON object:
#   {"stage": Stage, "done": n, "of": m}                       how far a stage is
#   {"stage": "train", "step": s, "steps": S, "loss": x, "eta_s": y}   at most once a second
#   {"checkpoint": name, "step": s}                            a whole checkpoint lies there now
#   {"preview": name below PREVIEWS, "step": s, "prompt": p, "seed": n}


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The model that is trained upon, here on the disk."""

    spec: dict[str, Any]  # models.spec.ModelSpec as JSON
    folder: str
    sha256: str
    device: Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class PrepareOrder:
    """Make dataset/ out of stills/, or, where dataset/ is there already, write its captions anew."""

    folder: str
    job_id: str
    recipe_json: str
    trigger: str
    caption: str
    seed: int
    base_model: str
    base_sha256: str
    stills: tuple[dict[str, Any], ...]  # training.stills.Still
    captions: tuple[tuple[str, str], ...]
    captioner: str | None  # a folder on the disk
    num_threads: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        pairs = tuple((name, text) for name, text in fields["captions"])
        return cls(**{**fields, "stills": tuple(fields["stills"]), "captions": pairs})


@dataclass(frozen=True, slots=True)
class TrainOrder:
    """Train on dataset/; where there is a checkpoint, from there on."""

    folder: str
    job_id: str
    name: str  # of the adapter
    created_at: int  # Unix seconds of the job: the one time that a file speaks of
    recipe_json: str
    trigger: str
    steps: int
    seed: int
    base: BaseModel
    checkpoint_s: float
    num_threads: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        return cls(**{**fields, "base": BaseModel(**fields["base"])})


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a TrainOrder; files are below OUT."""

    adapter: str
    sha256: str
    num_bytes: int
    weights_sha256: str  # of the trained tensors alone, in float32, before they were written: for comparing runs
    loss: tuple[tuple[int, float], ...]
    validation_loss: tuple[tuple[int, float], ...]
    loss_plot: str
    loss_data: str
    quality: dict[str, Any]  # pipelines.request.TrainingQuality
    samples: tuple[dict[str, Any], ...]  # {"file", "prompt", "seed", "step", "width_px", "height_px", "sha256"}
    device_s: float
    peak_bytes: int
    s_per_step: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        curves = {name: tuple((int(s), float(v)) for s, v in fields[name]) for name in ("loss", "validation_loss")}
        return cls(**{**fields, **curves, "samples": tuple(fields["samples"])})


@dataclass(frozen=True, slots=True)
class MeasureOrder:
    """Try out a few steps, on noise, and say what they take."""

    folder: str
    recipe_json: str
    base: BaseModel
    num_threads: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        return cls(**{**fields, "base": BaseModel(**fields["base"])})


@dataclass(frozen=True, slots=True)
class Measured:
    """What a training takes here: start + pictures * s_per_picture + steps * s_per_step + end."""

    start_s: float  # from nothing to the model in place
    s_per_picture: float  # decoding, cutting and encoding one
    s_per_step: float
    end_s: float  # validation, comparison and proof
    peak_bytes: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
