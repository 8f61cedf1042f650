"""The model card names every subject and takes the figures without losing its text."""

from pathlib import Path

from training.pretrain.card import put_figures, write_card
from training.pretrain.recipe import PretrainRecipe
from training.pretrain.run import prepare_subjects

FIGURES = {"labels": 200, "steps": 20, "guidance": 4.0, "top1": 0.515, "top5": 0.8, "colours": 0.95, "psnr_db": 26.5}


def test_the_card_names_data_licences_subjects_and_limits(recipe: PretrainRecipe, cache: Path, tmp_path: Path):
    write_card(recipe, prepare_subjects(recipe, cache), tmp_path / "card.md", step=12)
    text = (tmp_path / "card.md").read_text()
    for words in ("red apple, green apple, lemon", "MIT", "## Limits", "sky blue", "12 steps", "Not measured yet"):
        assert words in text


def test_figures_replace_the_figures_before(recipe: PretrainRecipe, cache: Path, tmp_path: Path):
    card = tmp_path / "card.md"
    write_card(recipe, prepare_subjects(recipe, cache), card, step=12)
    put_figures(card, {**FIGURES, "top1": 0.111})
    put_figures(card, FIGURES)
    text = card.read_text()
    assert "51.5%" in text
    assert "11.1%" not in text
    assert "Not measured yet" not in text
    assert "## Limits" in text
