"""Dataset: the pictures of one training with their captions, and the manifest that says where each is from.

A folder of its own: images/, a .txt beside each, rejected.jsonl and manifest.json, which is written last.
"""

from dataclasses import dataclass

from pipelines.request import Face, SourceKind

IMAGES, REJECTED, MANIFEST = "images", "rejected.jsonl", "manifest.json"


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture that is learned from, or held out."""

    file: str  # below the dataset's folder, such as "images/0003.png"
    sha256: str
    width_px: int
    height_px: int
    caption: str
    is_held_out: bool
    upload_id: str
    upload_sha256: str
    kind: SourceKind
    time_s: float | None = None
    faces: tuple[Face, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """One that is not learned from, and the one reason why."""

    upload_id: str
    time_s: float | None
    file: str  # its name among the stills
    sha256: str
    reason: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """All of it. What decides the weights is in `data_sha256`."""

    job_id: str
    trigger: str
    caption_mode: str
    recipe: str
    recipe_sha256: str
    base_model: str
    base_sha256: str
    pictures: tuple[Picture, ...]
    rejected: tuple[Rejected, ...]
