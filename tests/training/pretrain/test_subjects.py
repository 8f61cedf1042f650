"""Subjects: the recipe's rules choose them, and a rule that matches nothing is an error."""

from pathlib import Path

import pytest

from training.pretrain.fetch import fetch_packages
from training.pretrain.recipe import DataRecipe, PretrainRecipe, RecipeError
from training.pretrain.subjects import Subject, choose_subjects


def _choose(cache: Path, recipe: PretrainRecipe, **changes: tuple[str, ...]) -> list[Subject]:
    data = DataRecipe.model_validate({**recipe.data.model_dump(), **changes})
    return choose_subjects(data, *fetch_packages(data, cache))


def test_a_subgroup_brings_all_its_subjects_in_order(recipe: PretrainRecipe, cache: Path):
    assert [subject.label for subject in _choose(cache, recipe)] == ["red apple", "green apple", "lemon"]


def test_single_labels_come_in_and_go_out(recipe: PretrainRecipe, cache: Path):
    chosen = _choose(cache, recipe, also=("flag's pole",), without=("lemon",))
    assert [subject.label for subject in chosen] == ["red apple", "green apple", "flag's pole"]


def test_a_picture_named_with_a_variation_selector_is_found(recipe: PretrainRecipe, cache: Path):
    (pole,) = _choose(cache, recipe, subgroups=("flag",))
    assert pole.picture.name == "1f6a9-fe0f.webp"


@pytest.mark.parametrize("changes", [{"without": ("pear",)}, {"also": ("pear",)}, {"subgroups": ("pear",)}])
def test_a_name_that_the_data_does_not_know_is_an_error(recipe: PretrainRecipe, cache: Path, changes):
    with pytest.raises(RecipeError, match="pear"):
        _choose(cache, recipe, **changes)
