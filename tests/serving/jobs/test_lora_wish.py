"""What is to be trained: open choices filled in by recipe and model, each limit refused by the name of its field."""

from typing import Any

import pytest
from pydantic import SecretStr

from configs.settings import FalSettings, TrainingSettings
from models.catalog import load_catalog
from pipelines.request import TrainingRequest
from serving.errors import AppError, BadInput, NotFound
from serving.jobs.lora_wish import (
    EarlierDataset,
    TrainingWish,
    check_sources,
    choose_base,
    resolve_training,
    trainable_models,
)
from tests.serving.training_jobs import a_source
from training.recipe import Recipe, load_recipe

CATALOG = load_catalog()
SPEC = CATALOG["emoji-3d"]
SERVED = {model_id: CATALOG[model_id] for model_id in ("emoji-3d", "qwen-image")}
EARLIER = EarlierDataset("tenants/alice/datasets/-/job_1/", frozenset({"0000.png", "0001.png"}), "emoji-3d", "sks")


def resolve(
    settings: TrainingSettings | None = None, earlier: EarlierDataset | None = None, **wish: Any
) -> TrainingRequest:
    wanted = TrainingWish("signer", **wish)
    sources = () if earlier else (a_source(),)
    return resolve_training(wanted, SPEC, settings or TrainingSettings(), sources=sources, earlier=earlier)


def test_what_is_left_open_is_as_the_recipe_has_it_for_the_model() -> None:
    request = resolve()
    recipe = Recipe.from_json(request.recipe_json)
    assert (request.name, request.trigger, request.base_model) == ("signer", "signer", "emoji-3d")
    assert (request.recipe, request.caption) == ("subject", "template")
    assert recipe == load_recipe("subject", SPEC)
    assert (request.steps, request.rank) == (recipe.loop.steps, recipe.lora.rank)
    assert request.resolution_px == SPEC.defaults.width_px
    assert request.sources == (a_source(),)
    assert resolve().seed != resolve().seed


def test_what_is_asked_for_stands_in_the_recipe_too() -> None:
    request = resolve(steps=10, rank=4, resolution=64, caption="none", seed=5, recipe="style", trigger="sks")
    recipe = Recipe.from_json(request.recipe_json)
    assert (recipe.loop.steps, recipe.lora.rank, recipe.pictures.resolution_px, recipe.captions.mode) == (
        10,
        4,
        64,
        "none",
    )
    assert (request.steps, request.rank, request.resolution_px, request.caption) == (10, 4, 64, "none")
    assert (request.seed, request.recipe, request.trigger) == (5, "style", "sks")


def test_a_servers_own_limits_hold_for_what_is_left_open_too() -> None:
    request = resolve(TrainingSettings(max_steps=100, max_rank=8))
    assert (request.steps, request.rank) == (100, 8)
    assert Recipe.from_json(request.recipe_json).loop.steps == 100


def test_a_training_that_goes_on_from_a_dataset_inherits_its_trigger_and_takes_new_captions() -> None:
    request = resolve(earlier=EARLIER, from_job="job_1", captions={"0001.png": "sks, smiling", "0000.png": "sks"})
    assert (request.dataset, request.sources, request.trigger) == (EARLIER.prefix, (), "sks")
    assert request.captions == (("0000.png", "sks"), ("0001.png", "sks, smiling"))


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"trigger": " "}, "trigger"),
        ({"trigger": "x" * 201}, "trigger"),
        ({"trigger": "a\x00b"}, "trigger"),
        ({"steps": 0}, "steps"),
        ({"steps": 20_001}, "steps"),
        ({"rank": 0}, "rank"),
        ({"rank": 257}, "rank"),
        ({"resolution": 100}, "resolution"),
        ({"resolution": 8}, "resolution"),
        ({"resolution": 8_192}, "resolution"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"recipe": "no-such"}, "recipe"),
        ({"recipe": "../models/sd15"}, "recipe"),
        ({"caption": "model"}, "caption"),
        ({"user": "a\x00b"}, "user"),
        ({"earlier": EARLIER, "captions": {"0009.png": "x"}}, "captions"),
        ({"earlier": EARLIER, "captions": {"0001.png": "a\x00b"}}, "captions"),
    ],
)
def test_what_cannot_be_is_refused_by_name(wish: dict[str, Any], param: str) -> None:
    with pytest.raises(BadInput) as caught:
        resolve(**wish)
    assert caught.value.param == param


def test_a_captioner_makes_captions_of_its_own_possible() -> None:
    assert resolve(TrainingSettings(captioner="owner/captioner"), caption="model").caption == "model"


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({}, "upload_ids"),
        ({"upload_ids": ("a", "b", "c")}, "upload_ids"),
        ({"upload_ids": ("a", "a")}, "upload_ids"),
        ({"upload_ids": ("a",), "from_job": "job_1"}, "from_job"),
        ({"upload_ids": ("a",), "captions": {"0000.png": "x"}}, "captions"),
    ],
)
def test_what_to_learn_from_is_said_once(wish: dict[str, Any], param: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_sources(TrainingWish("signer", **wish), max_uploads=2)
    assert caught.value.param == param


def test_uploads_or_an_earlier_job_are_enough() -> None:
    check_sources(TrainingWish("signer", ("a", "b")), max_uploads=2)
    check_sources(TrainingWish("signer", from_job="job_1", captions={"0000.png": "x"}), max_uploads=2)


@pytest.mark.parametrize(("wanted", "error"), [("qwen-image", BadInput), ("sdxl", NotFound), ("no-such", NotFound)])
def test_only_what_is_served_and_of_a_family_we_train_is_a_base(wanted: str, error: type[AppError]) -> None:
    trainable = trainable_models(SERVED, CATALOG, TrainingSettings())
    assert choose_base("emoji-3d", trainable, SERVED) == SPEC
    with pytest.raises(error) as caught:
        choose_base(wanted, trainable, SERVED)
    assert caught.value.param == "base_model"
    assert "emoji-3d" in caught.value.message


def test_with_a_key_a_provider_trains_what_is_not_served_here() -> None:
    settings = TrainingSettings(fal=FalSettings(key=SecretStr("k"), models={"flux-dev": "endpoint"}))
    assert choose_base("flux-dev", trainable_models(SERVED, CATALOG, settings), SERVED).id == "flux-dev"
