"""Chooses the subjects: which emoji, with which label and tags, and where their pictures are."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.pretrain.recipe import DataRecipe, RecipeError


@dataclass(frozen=True)
class Subject:
    """One thing that the model learns to draw."""

    label: str
    tags: tuple[str, ...]
    subgroup: str
    picture: Path


def choose_subjects(data: DataRecipe, pictures: Path, labels: Path) -> list[Subject]:
    """Subjects in the order of emojibase; a label of the recipe that does not exist is an error."""
    files = {_plain_hexcode(path.stem): path for path in sorted((pictures / "assets").glob("*.webp"))}
    known = {subject.label: subject for subject in _read_subjects(labels, files)}
    subgroups = {subject.subgroup for subject in known.values()}
    unknown = [name for name in (*data.also, *data.without) if name not in known]
    unknown += [name for name in data.subgroups if name not in subgroups]
    if unknown:
        raise RecipeError(f"The data has no such label or subgroup: {', '.join(unknown)}.")
    return [
        subject
        for subject in known.values()
        if (subject.subgroup in data.subgroups or subject.label in data.also) and subject.label not in data.without
    ]


def _read_subjects(labels: Path, files: dict[str, Path]) -> Iterator[Subject]:
    names = json.loads((labels / "meta" / "groups.json").read_text(encoding="utf-8"))["subgroups"]
    entries: list[dict[str, Any]] = json.loads((labels / "en" / "data.json").read_text(encoding="utf-8"))
    for entry in sorted(entries, key=lambda entry: entry.get("order", 0)):
        picture = files.get(_plain_hexcode(entry["hexcode"]))
        if picture is None or "subgroup" not in entry:
            continue
        label = plain_words(entry["label"])
        tags = tuple(plain_words(tag) for tag in entry.get("tags", ()))
        yield Subject(label, tags, names[str(entry["subgroup"])], picture)


def plain_words(text: str) -> str:
    """Lower case, straight apostrophes: what people type."""
    return text.lower().replace("’", "'").strip()


def _plain_hexcode(hexcode: str) -> str:
    # The packages do not agree on the variation selector.
    return hexcode.lower().replace("-fe0f", "")
