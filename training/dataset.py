"""Dataset: the pictures of one training with their captions, and the manifest that says where each is from.

A folder of its own: images/, a .txt beside each, rejected.jsonl and manifest.json, which is written last. The same
dataset is the same bytes. Loads nothing heavy.
"""

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.request import Face, SourceKind
from training.recipe import ValidationPart

IMAGES, REJECTED, MANIFEST = "images", "rejected.jsonl", "manifest.json"
FORMAT = 1
FILE = re.compile(rf"{IMAGES}/[0-9]{{4,}}\.(png|jpg|jpeg|webp)")


class DatasetError(ValueError):
    """What lies in a folder is no whole dataset; the message says why."""


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

    @property
    def name(self) -> str:
        """Such as "0003.png"."""
        return self.file.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Rejected:
    """One that is not learned from, and the one reason why."""

    upload_id: str
    time_s: float | None
    file: str  # its name among the stills
    sha256: str
    reason: str


@dataclass(frozen=True, slots=True)
class Source:
    """An upload that pictures are from."""

    upload_id: str
    sha256: str
    kind: SourceKind
    files: tuple[str, ...]  # of its pictures, in order
    times_s: tuple[float, ...]  # in a video; none for a picture


@dataclass(frozen=True, slots=True)
class Dataset:
    """All of it. What decides the weights is in `data_sha256`."""

    job_id: str
    trigger: str
    caption_mode: str
    recipe: str  # training.recipe.Recipe as JSON
    recipe_sha256: str
    base_model: str
    base_sha256: str
    pictures: tuple[Picture, ...]
    rejected: tuple[Rejected, ...]

    @property
    def num_held_out(self) -> int:
        """Pictures that are only looked at, to see whether it was learned."""
        return sum(one.is_held_out for one in self.pictures)

    @property
    def num_rejected(self) -> dict[str, int]:
        """By reason, the most frequent first."""
        return dict(Counter(one.reason for one in self.rejected).most_common())


def hold_out(sha256s: Sequence[str], part: ValidationPart) -> list[bool]:
    """For each picture, in the order of uploads and of time, whether it is held out: every n-th of them, at least one
    and never all. Those with the same bytes go together, or what is held out would have been learned."""
    distinct = list(dict.fromkeys(sha256s))
    if len(distinct) < 2:
        raise ValueError("two different pictures are the fewest that can be split")
    number = max(1, min(part.max_held_out, round(part.held_out_share * len(distinct)), len(distinct) - 1))
    chosen = {distinct[(2 * place + 1) * len(distinct) // (2 * number)] for place in range(number)}
    return [sha256 in chosen for sha256 in sha256s]


def data_sha256(dataset: Dataset) -> str:
    """Of what decides the weights: pictures, captions, what is held out, and the order."""
    said = [[one.sha256, one.caption, one.is_held_out] for one in dataset.pictures]
    return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()


def write_dataset(folder: Path, dataset: Dataset, sources: Mapping[str, Path]) -> str:
    """Writes all of it, its manifest last, whose SHA-256 it returns. A picture is copied from where `sources` says,
    by its `file`; those that are not named there lie in their place already. May be repeated."""
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    for picture in dataset.pictures:
        path = folder / picture.file
        if picture.file in sources:
            shutil.copyfile(sources[picture.file], path)
        path.with_suffix(".txt").write_text(picture.caption, encoding="utf-8", newline="")
    (folder / REJECTED).write_bytes(_rejected_to_lines(dataset.rejected))
    manifest = _to_manifest(dataset)
    unfinished = folder / f"{MANIFEST}.part"
    with unfinished.open("wb") as file:
        file.write(manifest)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(folder / MANIFEST)
    return hashlib.sha256(manifest).hexdigest()


def read_dataset(folder: Path) -> Dataset:
    """Inverse of write_dataset; DatasetError where a file is missing or is not the one that was written.

    Captions are the manifest's: the .txt files beside the pictures are for people and for other trainers.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        rejected = (folder / REJECTED).read_bytes()
        dataset = _from_manifest(manifest, rejected)
        if manifest["data_sha256"] != data_sha256(dataset):
            raise DatasetError(f"{MANIFEST} contradicts itself: its pictures are not those of its data_sha256.")
        if manifest["rejected_sha256"] != hashlib.sha256(rejected).hexdigest():
            raise DatasetError(f"{REJECTED} is not the file that {MANIFEST} names.")
        for picture in dataset.pictures:
            _check(folder, picture)
    except OSError as error:
        raise DatasetError(f"A file of the dataset cannot be read: {error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{MANIFEST} is none that this version understands: {error!r}.") from error
    return dataset


def read_sources(manifest: bytes) -> tuple[Source, ...]:
    """Where its pictures are from, by the manifest alone; DatasetError where this version does not understand it."""
    try:
        fields = json.loads(manifest)
        return tuple(
            Source(
                upload_id=source["upload_id"],
                sha256=source["sha256"],
                kind=source["kind"],
                files=tuple(picture["file"] for picture in source["pictures"]),
                times_s=tuple(p["time_s"] for p in source["pictures"] if p["time_s"] is not None),
            )
            for source in fields["sources"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{MANIFEST} is none that this version understands: {error!r}.") from error


def _check(folder: Path, picture: Picture) -> None:
    if not FILE.fullmatch(picture.file):
        raise DatasetError(f"{picture.file[:80]!r} is no name of a picture.")
    with (folder / picture.file).open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != picture.sha256:
            raise DatasetError(f"{picture.file} is not the picture that {MANIFEST} names.")


def _to_manifest(dataset: Dataset) -> bytes:
    """Canonical. No clock and no machine is in it: who does a job again writes the same bytes."""
    fields = {
        "format": FORMAT,
        "job_id": dataset.job_id,
        "base_model": {"id": dataset.base_model, "sha256": dataset.base_sha256},
        "trigger": dataset.trigger,
        "captions": dataset.caption_mode,
        "recipe": {"sha256": dataset.recipe_sha256, **json.loads(dataset.recipe)},
        "counts": {
            "learned": len(dataset.pictures) - dataset.num_held_out,
            "held_out": dataset.num_held_out,
            "rejected": dataset.num_rejected,
        },
        "data_sha256": data_sha256(dataset),
        "rejected_sha256": hashlib.sha256(_rejected_to_lines(dataset.rejected)).hexdigest(),
        "sources": _sources(dataset.pictures),
        "pictures": [_picture_to_fields(one) for one in dataset.pictures],
    }
    return json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _from_manifest(fields: dict[str, Any], rejected: bytes) -> Dataset:
    if fields["format"] != FORMAT:
        raise DatasetError(f"{MANIFEST} has format {fields['format']!r}; this version reads {FORMAT}.")
    sources = {source["upload_id"]: source for source in fields["sources"]}
    recipe = dict(fields["recipe"])
    recipe_sha256 = recipe.pop("sha256")
    return Dataset(
        job_id=fields["job_id"],
        trigger=fields["trigger"],
        caption_mode=fields["captions"],
        recipe=json.dumps(recipe, sort_keys=True, separators=(",", ":")),
        recipe_sha256=recipe_sha256,
        base_model=fields["base_model"]["id"],
        base_sha256=fields["base_model"]["sha256"],
        pictures=tuple(_picture_from_fields(one, sources[one["upload_id"]]) for one in fields["pictures"]),
        rejected=tuple(Rejected(**json.loads(line)) for line in rejected.splitlines()),
    )


def _sources(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """Which upload each picture is from, and from when: what is asked when an upload is to be forgotten."""
    sources: dict[str, dict[str, Any]] = {}
    for one in pictures:
        start = {"upload_id": one.upload_id, "sha256": one.upload_sha256, "kind": one.kind, "pictures": []}
        source = sources.setdefault(one.upload_id, start)
        source["pictures"].append({"file": one.file, "time_s": one.time_s})
    return list(sources.values())


def _picture_to_fields(one: Picture) -> dict[str, Any]:
    fields = asdict(one)
    del fields["upload_sha256"], fields["kind"]  # the source says them
    return fields


def _picture_from_fields(fields: dict[str, Any], source: dict[str, Any]) -> Picture:
    faces = tuple(Face(**face) for face in fields["faces"])
    return Picture(**{**fields, "faces": faces}, upload_sha256=source["sha256"], kind=source["kind"])


def _rejected_to_lines(rejected: Sequence[Rejected]) -> bytes:
    return b"".join(json.dumps(asdict(one), ensure_ascii=False).encode() + b"\n" for one in rejected)
