"""A learner trains all of its LoRA, nothing else, and can be put back to where it was."""

from pathlib import Path

import pytest
import torch

from models.lora_files.reading import read_lora
from models.spec import Family
from tests.training.tiny_learning import load_plain, make_batch, save_adapter, shake, tiny_learner, tiny_recipe
from training.learners import build_learner
from training.learners.adapted import AdaptedLearner
from training.recipe import RecipeError

FAMILIES: list[Family] = ["sd", "sdxl", "flux"]


def all_targets(family: Family) -> list[str]:
    return ["attention", "feed_forward"] + (["convolutions"] if family != "flux" else [])


def step(learner: AdaptedLearner, *, seed: int = 0, rate: float = 0.1) -> None:
    """One of plain gradient descent."""
    batch, draws = make_batch(learner, seed=seed)
    learner.train_mode(True)
    learner.losses(batch, draws).mean().backward()
    with torch.no_grad():
        for parameter in learner.trainable().values():
            parameter -= rate * parameter.grad
            parameter.grad = None


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dora", [False, True])
def test_a_new_adapter_changes_no_loss(tiny_folders: dict[Family, Path], family: Family, dora: bool) -> None:
    recipe = tiny_recipe(lora={"targets": all_targets(family), "text_encoder": True, "dora": dora})
    learner = tiny_learner(tiny_folders[family], family, recipe)
    batch, draws = make_batch(learner)
    base = learner.plain_losses(batch, draws, with_adapter=False)
    # DoRA divides a norm by itself, taken in another order.
    torch.testing.assert_close(learner.plain_losses(batch, draws), base, rtol=1e-5 if dora else 0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dora", [False, True])
def test_gradients_reach_every_trained_tensor_and_no_other(
    tiny_folders: dict[Family, Path], family: Family, dora: bool
) -> None:
    recipe = tiny_recipe(lora={"targets": all_targets(family), "text_encoder": True, "dora": dora})
    learner = tiny_learner(tiny_folders[family], family, recipe)
    step(learner)  # the first one moves the second matrices only
    batch, draws = make_batch(learner, seed=1)
    learner.losses(batch, draws).mean().backward()
    idle = [name for name, value in learner.trainable().items() if value.grad is None or not value.grad.any()]
    assert idle == []
    trained = {id(parameter) for parameter in learner.trainable().values()}
    for part in (learner.denoiser, learner.pipeline.vae, learner.pipeline.text_encoder):
        assert {id(parameter) for parameter in part.parameters() if parameter.requires_grad} <= trained
    assert {len(parameters) for _, parameters in learner.parameter_groups()} != {0}
    assert sum(len(parameters) for _, parameters in learner.parameter_groups()) == len(trained)


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_gives_the_same_gradients(tiny_folders: dict[Family, Path], family: Family) -> None:
    gradients = []
    for is_checkpointing in (False, True):
        recipe = tiny_recipe(lora={"text_encoder": True}, loop={"gradient_checkpointing": is_checkpointing})
        learner = tiny_learner(tiny_folders[family], family, recipe)
        shake(learner)
        learner.train_mode(True)
        assert learner.denoiser.is_gradient_checkpointing is is_checkpointing
        learner.losses(*make_batch(learner)).mean().backward()
        gradients.append({name: value.grad for name, value in learner.trainable().items()})
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)


def test_the_base_is_seen_for_one_call_only(tiny_folders: dict[Family, Path]) -> None:
    learner = tiny_learner(tiny_folders["sd"], "sd")
    batch, draws = make_batch(learner)
    base = learner.plain_losses(batch, draws)
    shake(learner)
    learned = learner.plain_losses(batch, draws)
    learner.train_mode(True)
    assert torch.equal(learner.plain_losses(batch, draws, with_adapter=False), base)
    assert torch.equal(learner.plain_losses(batch, draws), learned)
    assert not torch.equal(learned, base)
    assert learner.denoiser.training
    assert all(value.requires_grad for value in learner.trainable().values())
    with pytest.raises(ZeroDivisionError), learner.without_adapter():
        assert torch.equal(learner.plain_losses(batch, draws), base)
        raise ZeroDivisionError
    assert torch.equal(learner.plain_losses(batch, draws), learned)


def test_dropout_is_for_training_alone(tiny_folders: dict[Family, Path]) -> None:
    learner = tiny_learner(tiny_folders["sd"], "sd", tiny_recipe(lora={"dropout": 0.5}))
    shake(learner)
    batch, draws = make_batch(learner)
    learner.train_mode(True)
    losses = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        losses.append(learner.losses(batch, draws).detach())
    assert torch.equal(losses[0], losses[2])
    assert not torch.equal(losses[0], losses[1])
    assert torch.equal(learner.plain_losses(batch, draws), learner.plain_losses(batch, draws))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trained_text_encoder_tells_the_denoiser_something_else(
    tiny_folders: dict[Family, Path], family: Family
) -> None:
    learner = tiny_learner(tiny_folders[family], family, tiny_recipe(lora={"text_encoder": True}))
    batch, draws = make_batch(learner)
    assert not any(value.is_floating_point() for name, value in batch.texts.items() if name.startswith("ids"))
    base = learner.plain_losses(batch, draws)
    with torch.no_grad():
        for name, value in learner.trainable().items():
            if name.startswith("text_encoder") and "lora_B" in name:
                value.fill_(0.1)
    assert (learner.plain_losses(batch, draws) != base)[0]
    assert dict(learner.parameter_groups()).keys() == {"denoiser", "text_encoder"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_state_comes_back_to_the_bit_into_another_learner(tiny_folders: dict[Family, Path], family: Family) -> None:
    recipe = tiny_recipe(lora={"dora": True})
    learner, other = (tiny_learner(tiny_folders[family], family, recipe, seed=seed) for seed in (0, 1))
    step(learner)
    state = learner.state()
    assert list(state) == sorted(state)
    other.load_state(state)
    batch, draws = make_batch(learner)
    assert torch.equal(other.plain_losses(batch, draws), learner.plain_losses(batch, draws))
    assert all(torch.equal(value, state[name]) for name, value in other.state().items())
    step(learner, seed=1)
    assert not all(torch.equal(value, state[name]) for name, value in learner.state().items())
    del state[min(state)]
    with pytest.raises(KeyError, match="not in both"):
        other.load_state(state)


def test_a_seed_decides_how_a_training_begins(tiny_folders: dict[Family, Path]) -> None:
    first, again, other = (tiny_learner(tiny_folders["sd"], "sd", seed=seed).state() for seed in (5, 5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(first[name], other[name]) == ("lora_B" in name) for name in first)
    assert len({first[name].sum().item() for name in first if "lora_A" in name}) == len(first) // 2


def test_half_precision_leaves_the_lora_and_the_losses_in_float32(tiny_folders: dict[Family, Path]) -> None:
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        pipeline = load_plain(tiny_folders["sd"], "sd")
        recipe = tiny_recipe(lora={"text_encoder": True})
        learner = build_learner(pipeline, "sd", recipe, device=torch.device("cpu"), dtype=dtype, seed=0)
        shake(learner)
        batch, draws = make_batch(learner)
        learner.train_mode(True)
        loss = learner.losses(batch, draws)
        loss.mean().backward()
        assert loss.dtype == torch.float32
        assert {value.grad.dtype for value in learner.trainable().values()} == {torch.float32}
        assert {value.dtype for value in learner.trainable().values()} == {torch.float32}
        losses.append(loss.detach())
    assert not torch.equal(losses[1], losses[0])
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0.0)


def test_magnitudes_of_a_bfloat16_model_are_its_exact_lengths(tiny_folders: dict[Family, Path]) -> None:
    pipeline = load_plain(tiny_folders["sd"], "sd")
    device, dtype, recipe = torch.device("cpu"), torch.bfloat16, tiny_recipe(lora={"dora": True})
    learner = build_learner(pipeline, "sd", recipe, device=device, dtype=dtype, seed=0)
    for name, value in learner.trainable().items():
        if name.endswith(".lora_magnitude_vector"):
            path = name.removeprefix("unet.").removesuffix(".lora_magnitude_vector")
            weight = learner.denoiser.get_submodule(path).get_base_layer().weight.float()
            torch.testing.assert_close(value.flatten(), weight.flatten(1).norm(dim=1))


def test_sdxl_is_told_of_sizes_and_corners_with_the_height_first(tiny_folders: dict[Family, Path]) -> None:
    told = tiny_learner(tiny_folders["sdxl"], "sdxl").shape_of((1920, 1080), (30, 20), (1344, 768))
    assert told["time_ids"].tolist() == [[1080, 1920, 20, 30, 768, 1344]]
    assert tiny_learner(tiny_folders["sd"], "sd").shape_of((1920, 1080), (30, 20), (1344, 768)) == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_reads_what_a_learner_saves(
    tiny_folders: dict[Family, Path], tmp_path: Path, family: Family
) -> None:
    recipe = tiny_recipe(lora={"targets": all_targets(family), "text_encoder": True})
    learner = tiny_learner(tiny_folders[family], family, recipe)
    shake(learner)
    path = save_adapter(learner, tmp_path / "adapter.safetensors")
    layers = read_lora(path, load_plain(tiny_folders[family], family), family).layers
    state = learner.state()
    assert len(layers) == len(state) // 2
    for name, layer in layers.items():
        component, _, module_path = name.partition(".")
        inner = module_path.removeprefix("text_model.")
        saved = f"{component}.text_model.{inner}" if component.startswith("text") else f"{component}.{inner}"
        assert torch.equal(layer.down, state[f"{saved}.lora_A.weight"])
        assert torch.equal(layer.up, state[f"{saved}.lora_B.weight"] * 2)  # alpha 8 over rank 4


def test_a_model_made_for_inpainting_is_refused(tiny_folders: dict[Family, Path]) -> None:
    pipeline = load_plain(tiny_folders["sd"], "sd")
    pipeline.unet.register_to_config(in_channels=9)
    with pytest.raises(RecipeError, match="inpainting"):
        build_learner(pipeline, "sd", tiny_recipe(), device=torch.device("cpu"), dtype=torch.float32, seed=0)


def test_a_family_that_cannot_be_trained_is_refused_with_those_that_can() -> None:
    with pytest.raises(RecipeError, match="sd3.*sd, sdxl, flux"):
        build_learner(None, "sd3", tiny_recipe(), device=torch.device("cpu"), dtype=torch.float32, seed=0)
