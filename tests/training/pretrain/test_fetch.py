"""Fetching: what is there is used, what is missing is asked of npm, and npm's refusal is told."""

import os
from pathlib import Path

import pytest

from training.pretrain.fetch import fetch_packages
from training.pretrain.recipe import PretrainRecipe, RecipeError


def test_packages_that_are_there_are_not_fetched_again(
    recipe: PretrainRecipe, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", "")
    pictures, labels = fetch_packages(recipe.data, cache)
    assert (pictures / "assets").is_dir()
    assert (labels / "en" / "data.json").is_file()


def test_missing_packages_are_asked_of_npm_by_exact_version(
    recipe: PretrainRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _fake_npm(tmp_path / "bin", f'echo "$@" > {tmp_path}/asked', monkeypatch)
    fetch_packages(recipe.data, tmp_path / "cache")
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith(f"install --prefix {tmp_path}/cache/npm --ignore-scripts")
    assert "@lobehub/fluent-emoji-3d@1.1.0 emojibase-data@17.0.0" in asked


def test_a_failing_npm_is_an_error_with_its_words(
    recipe: PretrainRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _fake_npm(tmp_path / "bin", "echo no such registry >&2; exit 1", monkeypatch)
    with pytest.raises(RecipeError, match="no such registry"):
        fetch_packages(recipe.data, tmp_path / "cache")


def test_without_npm_the_error_names_it(recipe: PretrainRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RecipeError, match="npm is needed"):
        fetch_packages(recipe.data, tmp_path / "cache")


def _fake_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch):
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
