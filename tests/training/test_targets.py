"""A recipe's words mean exactly the layers they name, in every family."""

from pathlib import Path

import pytest

from models.spec import Family
from tests.training.tiny_learning import load_plain, tiny_recipe
from training.recipe import RecipeError
from training.targets import lora_configs

UNET = {
    "attention": {"to_q", "to_k", "to_v", "0"},
    "feed_forward": {"proj", "2", "proj_in", "proj_out"},
    "convolutions": {"conv1", "conv2", "conv_shortcut", "conv"},
}


def paths_of(folder: Path, family: Family, **lora: object) -> dict[str, list[str]]:
    configs = lora_configs(load_plain(folder, family), family, tiny_recipe(lora=lora))
    return {name: sorted(config.target_modules) for name, config in configs.items()}


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("word", list(UNET))
def test_a_word_means_its_layers_of_a_unet(tiny_folders: dict[Family, Path], family: Family, word: str) -> None:
    paths = paths_of(tiny_folders[family], family, targets=[word])["unet"]
    assert {path.rpartition(".")[2] for path in paths} == UNET[word]
    assert not {"conv_in", "conv_out"} & set(paths)


def test_the_words_together_are_all_of_a_unet_but_its_ends_and_its_timesteps(
    tiny_folders: dict[Family, Path],
) -> None:
    pipeline = load_plain(tiny_folders["sd"], "sd")
    config = lora_configs(pipeline, "sd", tiny_recipe(lora={"targets": list(UNET)}))["unet"]
    layers = {path for path, module in pipeline.unet.named_modules() if getattr(module, "weight", None) is not None}
    left = {path for path in layers - set(config.target_modules) if "norm" not in path}
    assert {path.rpartition(".")[2] for path in left} == {
        "conv_in", "conv_out", "linear_1", "linear_2", "time_emb_proj",
    }  # fmt: skip


def test_both_streams_of_flux_are_adapted_but_not_its_last_layer(tiny_folders: dict[Family, Path]) -> None:
    paths = paths_of(tiny_folders["flux"], "flux", targets=["attention", "feed_forward"])["transformer"]
    double, single = "transformer_blocks.0.", "single_transformer_blocks.0."
    attention = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
    assert set(paths) == {
        *(f"{double}attn.{name}" for name in attention),
        *(f"{double}{stream}.{name}" for stream in ("ff", "ff_context") for name in ("net.0.proj", "net.2")),
        *(f"{single}attn.{name}" for name in attention[:3]),
        f"{single}proj_mlp",
        f"{single}proj_out",
    }


def test_a_word_that_means_no_layer_is_an_error_that_names_it(tiny_folders: dict[Family, Path]) -> None:
    with pytest.raises(RecipeError, match="convolutions means no layer of a flux model's transformer"):
        paths_of(tiny_folders["flux"], "flux", targets=["attention", "convolutions"])


@pytest.mark.parametrize(
    ("family", "encoders"),
    [("sd", {"text_encoder": 2}), ("sdxl", {"text_encoder": 1, "text_encoder_2": 2}), ("flux", {"text_encoder": 2})],
)
def test_text_encoders_are_adapted_in_every_layer_that_is_heard(
    tiny_folders: dict[Family, Path], family: Family, encoders: dict[str, int]
) -> None:
    found = paths_of(tiny_folders[family], family, text_encoder=True)
    assert {name: len(paths) // 4 for name, paths in found.items() if name.startswith("text")} == encoders
    assert {path.rpartition(".")[2] for path in found["text_encoder"]} == {"q_proj", "k_proj", "v_proj", "out_proj"}
    assert "text_encoder" not in paths_of(tiny_folders[family], family, text_encoder=False)


def test_rank_alpha_dropout_and_dora_are_the_recipes(tiny_folders: dict[Family, Path]) -> None:
    recipe = tiny_recipe(lora={"rank": 6, "alpha": 1.5, "dropout": 0.25, "dora": True})
    config = lora_configs(load_plain(tiny_folders["sd"], "sd"), "sd", recipe)["unet"]
    assert (config.r, config.lora_alpha, config.lora_dropout, config.use_dora) == (6, 1.5, 0.25, True)
