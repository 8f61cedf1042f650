"""The whole recipe, tiny: it ends in a folder that diffusers loads, and it goes on where it stopped."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from training.pretrain import export
from training.pretrain.autoencoder import train_autoencoder
from training.pretrain.recipe import PretrainRecipe
from training.pretrain.run import export_now, load_banks, prepare_subjects, pretrain

CPU = torch.device("cpu")


def test_the_recipe_ends_in_a_model_that_makes_a_picture(recipe: PretrainRecipe, cache: Path, tmp_path: Path):
    target = pretrain(recipe, cache, tmp_path / "model", CPU)
    pipeline = StableDiffusionPipeline.from_pretrained(target, safety_checker=None)
    image = pipeline("a red apple", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
    assert image.size == (64, 64)
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.float32}
    stages = {json.loads(line)["stage"] for log in cache.glob("*.jsonl") for line in log.read_text().splitlines()}
    assert stages <= {"autoencoder", "decoder", "denoiser"}
    assert not list(tmp_path.glob(".model*"))


def test_weights_are_sixteen_bit_safetensors_and_nothing_is_pickled(
    recipe: PretrainRecipe, cache: Path, tmp_path: Path
):
    target = export_now(recipe, cache, tmp_path / "model", CPU)
    kept = [path for path in target.rglob("*") if path.is_file()]
    assert {path.suffix for path in kept} <= {".safetensors", ".json", ".txt", ".md"}
    for path in (path for path in kept if path.suffix == ".safetensors"):
        with safe_open(path, framework="pt") as weights:
            assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float16}  # noqa: SIM118
    assert [one["label"] for one in json.loads((target / export.NOTE).read_text())["subjects"]] == [
        "red apple",
        "green apple",
        "lemon",
    ]


def test_an_export_replaces_the_one_before(recipe: PretrainRecipe, cache: Path, tmp_path: Path):
    target = export_now(recipe, cache, tmp_path / "model", CPU)
    (target / "stale").write_text("old")
    export_now(recipe, cache, target, CPU)
    assert not (target / "stale").exists()
    assert (target / "model_index.json").is_file()


def test_a_model_over_the_limit_is_not_written(
    recipe: PretrainRecipe, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(export, "MAX_FOLDER_BYTES", 1000)
    with pytest.raises(ValueError, match="1000 are allowed"):
        export_now(recipe, cache, tmp_path / "model", CPU)
    assert not (tmp_path / "model").exists()


def test_a_longer_budget_goes_on_from_the_checkpoint(recipe: PretrainRecipe, cache: Path):
    banks = load_banks(recipe, prepare_subjects(recipe, cache))
    first = train_autoencoder(recipe, banks, cache, CPU)
    state = torch.load(cache / "autoencoder.pt", weights_only=True)
    again = train_autoencoder(recipe, banks, cache, CPU)
    # The budget is spent: the second call loads and trains no step.
    for name, value in again.state_dict().items():
        assert torch.equal(value, first.state_dict()[name])
    longer = recipe.model_copy(update={"autoencoder": recipe.autoencoder.model_copy(update={"budget_s": 0.8})})
    train_autoencoder(longer, banks, cache, CPU)
    assert torch.load(cache / "autoencoder.pt", weights_only=True)["step"] > state["step"]
