"""why_drop(): which pictures are not learned from, over all uploads together, and the one reason for each. Pure.

A new filter is one function here, its name in training.recipe.FilterName and in FILTERS, and a recipe that uses it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Self

import numpy as np
import numpy.typing as npt

from pipelines.request import Face
from training.recipe import FilterName, FilterPart
from training.stills import Still

MIN_SIDE_PX = 64  # less is no picture for any model
MIN_SIDE_SHARE = 0.5  # of the resolution that is trained at; what is enlarged more than twice teaches blur


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A still with what it measures (see training.descriptors)."""

    still: Still
    sharpness: float
    brightness: float  # 0–255
    descriptor: npt.NDArray[np.float64]  # length 1
    faces: tuple[Face, ...] | None  # None: nobody looked


@dataclass(slots=True)
class Bar:
    """What a picture has to pass: the recipe's limits, what all of them are like, and those that came before it."""

    part: FilterPart
    resolution_px: int
    median_sharpness: float
    kept: list[Candidate] = field(default_factory=list)
    hashes: set[str] = field(default_factory=set)

    @classmethod
    def over(cls, candidates: Sequence[Candidate], part: FilterPart, resolution_px: int) -> Self:
        """For these together."""
        return cls(part, resolution_px, median([one.sharpness for one in candidates] or [0.0]))

    def keep(self, one: Candidate) -> None:
        """Has passed: what shows the same is a duplicate from now on."""
        self.kept.append(one)
        self.hashes.add(one.still.sha256)


def best_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The order in which they are to be asked about, so that of two that show the same the sharper one stays."""
    return sorted(candidates, key=lambda one: -one.sharpness)


def why_drop(one: Candidate, bar: Bar) -> FilterName | None:
    """The first of the recipe's filters that `one` does not pass; None: it may be learned from.

    The same file twice is a duplicate whatever the recipe says: half of it might be held out and half be learned.
    """
    for name in bar.part.use:
        if FILTERS[name](one, bar):
            return name
    return "duplicate" if one.still.sha256 in bar.hashes else None


def is_nsfw(one: Candidate, bar: Bar) -> bool:
    """As the moderator saw it, by the tenant's policy."""
    return one.still.is_nsfw


def is_too_small(one: Candidate, bar: Bar) -> bool:
    """It would have to be enlarged too much."""
    return min(one.still.width_px, one.still.height_px) < max(MIN_SIDE_PX, MIN_SIDE_SHARE * bar.resolution_px)


def is_dark(one: Candidate, bar: Bar) -> bool:
    """On the whole."""
    return one.brightness < bar.part.min_brightness


def is_bright(one: Candidate, bar: Bar) -> bool:
    """On the whole."""
    return one.brightness > bar.part.max_brightness


def is_blurry(one: Candidate, bar: Bar) -> bool:
    """Next to the rest: what is sharp depends on what is shown."""
    return one.sharpness < bar.part.min_sharpness_share * bar.median_sharpness


def is_duplicate(one: Candidate, bar: Bar) -> bool:
    """Of one that was kept, in bytes or in looks, whichever upload that is from."""
    return one.still.sha256 in bar.hashes or any(
        min(1.0, float(one.descriptor @ other.descriptor)) > bar.part.max_similarity for other in bar.kept
    )


def has_no_face(one: Candidate, bar: Bar) -> bool:
    """Where somebody looked for one."""
    return one.faces == ()


FILTERS: Mapping[FilterName, Callable[[Candidate, Bar], bool]] = {
    "nsfw": is_nsfw,
    "too_small": is_too_small,
    "dark": is_dark,
    "bright": is_bright,
    "blurry": is_blurry,
    "duplicate": is_duplicate,
    "no_face": has_no_face,
}
