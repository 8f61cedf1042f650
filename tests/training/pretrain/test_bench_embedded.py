"""The quality bench on a tiny model: it measures what it names, and a perfect painter gets perfect figures."""

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from training.pretrain.captions import full_caption
from training.pretrain.recipe import PretrainRecipe
from training.pretrain.run import export_now, prepare_subjects

SCRIPT = Path(__file__).parents[3] / "scripts" / "bench_embedded.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_embedded", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_embedded"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_it_writes_figures_sheet_and_card(bench: ModuleType, recipe: PretrainRecipe, cache: Path, tmp_path: Path):
    model = export_now(recipe, cache, tmp_path / "model", torch.device("cpu"))
    out = tmp_path / "out" / "figures.json"
    app = typer.Typer()
    app.command()(bench.main)
    options = ["--model", model, "--cache", cache, "--json", out, "--steps", "2", "--threads", "1"]
    result = CliRunner().invoke(app, [str(word) for word in (*options, "--quick", "--update-card")])
    assert result.exit_code == 0, result.output
    figures = json.loads(out.read_text())
    assert figures["labels"] == 3
    assert figures["steps"] == 2
    assert 0 <= figures["top1"] <= figures["top5"] <= 1
    assert figures["seconds_per_picture"] > 0
    with Image.open(out.with_suffix(".png")) as sheet:
        assert sheet.width == bench.SHEET_COLUMNS * bench.SHEET_CELL_PX
    assert "Not measured yet" not in (model / "MODEL_CARD.md").read_text()


def test_a_painter_of_the_true_pictures_is_measured_as_perfect(bench: ModuleType, recipe: PretrainRecipe, cache: Path):
    subjects = prepare_subjects(recipe, cache)

    class TruePainter:
        def paint(self, prompts: Sequence[str], *, at_once: int = 1) -> list:
            return [_true_picture(prompt) for prompt in prompts]

        def psnr(self, pictures_BCHW: torch.Tensor) -> float:
            return 99.0

    def _true_picture(prompt: str):
        for index, subject in enumerate(subjects):
            for colour in recipe.pictures.backgrounds:
                if prompt == full_caption(subject.label, colour):
                    cutouts = bench.load_cutouts([subjects[index]], 56)
                    return bench._to_pixels(bench._on_colours(cutouts, recipe, [colour]))[0]
        raise AssertionError(prompt)

    figures = bench.measure(TruePainter(), recipe, subjects, bench.QUICK)
    assert (figures["top1"], figures["top5"], figures["colours"]) == (1.0, 1.0, 1.0)


def test_subjects_are_spread_evenly_and_never_repeated(bench: ModuleType):
    assert bench.spread(list(range(10)), 5) == [0, 2, 4, 6, 8]
    assert bench.spread([1, 2], 5) == [1, 2]
