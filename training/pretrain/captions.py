"""Words for a picture: what is shown, where it sits and on which background, said in many ways."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from training.pretrain.subjects import Subject

Placement = Literal["usual", "small", "left", "right", "pair"]

_STYLE = "3d emoji"
_LABEL_COUNT = 20
_PLACES: dict[Placement, tuple[str, ...]] = {
    "usual": ("{}",),
    "small": ("small {}", "{}, small", "tiny {}"),
    "left": ("{} on the left", "small {} on the left"),
    "right": ("{} on the right", "small {} on the right"),
    "pair": ("{}",),
}


@dataclass(frozen=True)
class Scene:
    """What one cached picture shows: one subject, or two side by side with the left one first."""

    subjects: tuple[int, ...]
    background: str
    placement: Placement


def write_caption(scene: Scene, subjects: Sequence[Subject], rng: random.Random) -> str:
    """One caption for the scene; every call may word it differently."""
    shown = [subjects[index] for index in scene.subjects]
    words = _name_one(shown[0], rng) if len(shown) == 1 else _name_pair(shown, rng)
    words = rng.choice(_PLACES[scene.placement]).format(words)
    style = f", {_STYLE}" if rng.random() < 0.5 else ""
    return words + style + _background_words(scene.background, rng)


def full_caption(label: str, background: str) -> str:
    """The wording that names everything, which the quality figures are measured with."""
    return f"{label}, {_STYLE}, on {with_article(background)} background"


def with_article(label: str) -> str:
    """The label with a or an; plurals stay bare."""
    if label.endswith("s") and not label.endswith("ss"):
        return label
    return f"an {label}" if label[0] in "aeiou" else f"a {label}"


def every_word(subjects: Sequence[Subject], backgrounds: Sequence[str]) -> list[str]:
    """All texts that captions are made of: what the tokenizer has to know well."""
    # Labels count more often: each of their words must come out as one token even where the vocabulary ends early.
    texts = [text for subject in subjects for text in (*[subject.label] * _LABEL_COUNT, *subject.tags)]
    places = [form.format("") for forms in _PLACES.values() for form in forms]
    return [*texts, *backgrounds, *places, _STYLE, "a an and on the background, picture of"]


def _name_one(subject: Subject, rng: random.Random) -> str:
    form = rng.random()
    # Tags that the label already says add nothing; the others are what people type instead of the label.
    tags = [tag for tag in subject.tags if tag not in subject.label]
    if form < 0.04 and len(tags) >= 2:
        return " ".join(rng.sample(tags, min(len(tags), rng.randint(2, 3))))
    if form < 0.16 and tags:
        return f"{subject.label}, {', '.join(rng.sample(tags, min(len(tags), rng.randint(1, 2))))}"
    return with_article(subject.label) if form < 0.6 else subject.label


def _name_pair(shown: Sequence[Subject], rng: random.Random) -> str:
    names = [with_article(one.label) if rng.random() < 0.7 else one.label for one in shown]
    return rng.choice(("{} and {}", "{} next to {}")).format(*names)


def _background_words(background: str, rng: random.Random) -> str:
    # No word about the background means white.
    if background == "white" and rng.random() < 0.5:
        return ""
    article = with_article(background)
    return rng.choice((f", on {article} background", f" on {article} background", f", {background} background"))
