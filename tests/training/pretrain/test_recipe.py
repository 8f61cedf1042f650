"""The recipe: typed, frozen, closed."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from training.pretrain.recipe import PretrainRecipe, RecipeError, read_recipe

RECIPES = sorted((Path(__file__).parents[3] / "configs" / "training").glob("pretrain-*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_project_is_valid(path: Path):
    assert read_recipe(path).resolution_px >= 128


def test_there_is_a_recipe_for_the_model_that_ships():
    assert "pretrain-emoji-3d" in [path.stem for path in RECIPES]


def test_an_unknown_key_is_refused(recipe: PretrainRecipe):
    body = recipe.model_dump()
    body["denoiser"]["bacth"] = 8
    with pytest.raises(ValidationError, match="bacth"):
        PretrainRecipe.model_validate(body)


def test_backgrounds_without_white_are_refused(recipe: PretrainRecipe):
    body = recipe.model_dump()
    body["pictures"]["backgrounds"] = {"red": (255, 0, 0)}
    with pytest.raises(ValidationError, match="white"):
        PretrainRecipe.model_validate(body)


def test_a_file_that_holds_no_mapping_is_refused(tmp_path: Path):
    path = tmp_path / "list.yaml"
    path.write_text("- one\n")
    with pytest.raises(RecipeError, match="mapping"):
        read_recipe(path)
