"""Filters: each names its reason, the recipe's order decides between two, and every picture has one at most."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.request import Face
from training.filters import FILTERS, Bar, Candidate, best_first, why_drop
from training.recipe import FilterPart
from training.stills import Still

ALL = ("nsfw", "too_small", "dark", "bright", "blurry", "duplicate", "no_face")
ACROSS, DOWN = np.array([1.0, 0.0]), np.array([0.0, 1.0])
FACE = Face(1, 1, 30, 30, 0.9)


def candidate(name: str = "a", **changes: Any) -> Candidate:
    still = Still(name, f"{name} hashed", 512, 400, "upl_1", "upload", "video")
    still = replace(still, **{key: changes.pop(key) for key in list(changes) if hasattr(still, key) and key in STILL})
    fields = {"sharpness": 100.0, "brightness": 120.0, "descriptor": ACROSS, "faces": (FACE,)}
    return Candidate(still, **(fields | changes))


STILL = {"is_nsfw", "width_px", "height_px", "sha256"}


def bar(*kept: Candidate, **changes: Any) -> Bar:
    this = Bar(FilterPart(**({"use": ALL} | changes)), resolution_px=256, median_sharpness=100.0)
    for one in kept:
        this.keep(one)
    return this


FAULTS: dict[str, Candidate] = {
    "nsfw": candidate(is_nsfw=True),
    "too_small": candidate(height_px=127),
    "dark": candidate(brightness=9.9),
    "bright": candidate(brightness=245.1),
    "blurry": candidate(sharpness=9.9),
    "duplicate": candidate(descriptor=np.array([np.sqrt(1 - 0.9995**2), 0.9995])),
    "no_face": candidate(faces=()),
}


@pytest.mark.parametrize("reason", ALL)
def test_a_fault_is_named_and_passes_where_the_recipe_does_not_look_for_it(reason: str) -> None:
    seen = candidate("seen", descriptor=DOWN)
    assert why_drop(FAULTS[reason], bar(seen)) == reason
    others = tuple(name for name in ALL if name != reason)
    assert why_drop(FAULTS[reason], bar(seen, use=others)) is None


@pytest.mark.parametrize(
    "one",
    [
        candidate(height_px=128),
        candidate(brightness=10.0),
        candidate(brightness=245.0),
        candidate(sharpness=10.0),
        candidate(descriptor=np.array([np.sqrt(1 - 0.998**2), 0.998])),
        candidate(faces=None),
    ],
)
def test_what_lies_on_the_limit_passes(one: Candidate) -> None:
    assert why_drop(one, bar(candidate("seen", descriptor=DOWN))) is None


def test_a_picture_below_the_least_of_all_sizes_is_too_small_for_every_resolution() -> None:
    small = candidate(width_px=63, height_px=200)
    assert why_drop(small, Bar(FilterPart(), resolution_px=64, median_sharpness=0)) == "too_small"


def test_the_same_file_twice_is_a_duplicate_whatever_the_recipe_says() -> None:
    first, again = candidate("a"), candidate("b", sha256="a hashed", descriptor=DOWN)
    assert why_drop(again, bar(first, use=())) == "duplicate"
    assert why_drop(candidate("c", descriptor=DOWN), bar(first, use=())) is None


@given(st.permutations(ALL))
def test_of_two_faults_the_one_counts_that_stands_first_in_the_recipe(order: list[str]) -> None:
    all_wrong = candidate(
        is_nsfw=True, height_px=10, brightness=0.0, sharpness=0.0, faces=(), descriptor=DOWN, sha256="seen hashed"
    )
    expected = next(name for name in order if name != "bright")
    assert why_drop(all_wrong, bar(candidate("seen", descriptor=DOWN), use=tuple(order))) == expected


def test_of_two_that_show_the_same_the_sharper_one_stays() -> None:
    soft, sharp, other = candidate("a", sharpness=50.0), candidate("b"), candidate("c", sharpness=60.0, descriptor=DOWN)
    assert [one.still.file for one in best_first([soft, sharp, other])] == ["b", "c", "a"]


def test_how_sharp_is_sharp_enough_depends_on_all_of_them() -> None:
    candidates = [candidate(sharpness=value) for value in (1.0, 30.0, 31.0)]
    part = FilterPart(min_sharpness_share=0.1)
    assert why_drop(candidates[0], Bar.over(candidates, part, 64)) == "blurry"
    assert why_drop(candidates[0], Bar.over([candidates[0]] * 3, part, 64)) is None


def test_every_filter_of_a_recipe_is_there() -> None:
    assert set(FILTERS) == set(ALL)
