"""Pictures made in the middle of a training: what they are, and that the training cannot tell."""

import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.spec import Family, ModelSpec
from tests.models.tiny import tiny_spec
from tests.training.adapters import SIZE, WISHES, learned, pictures_of
from tests.training.tiny_learning import load_plain, tiny_recipe
from training.sampling import keep_picture, make_pictures, sample_wishes, without_adapter

Folders = dict[Family, Path]


def with_defaults(spec: ModelSpec, **changes: object) -> ModelSpec:
    return spec.model_copy(update={"defaults": spec.defaults.model_copy(update=changes)})


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux"])
def test_a_picture_is_what_the_plain_pipeline_makes_of_its_seed(family: Family, tiny_folders: Folders) -> None:
    made = make_pictures(load_plain(tiny_folders[family], family), tiny_spec(family), WISHES, **SIZE)
    for (prompt, seed), picture in zip(WISHES, made, strict=True):
        plain = load_plain(tiny_folders[family], family)
        generator = torch.Generator("cpu").manual_seed(seed)
        options = {"num_inference_steps": 3, "guidance_scale": 4.0, "width": 64, "height": 64}
        expected = plain(prompt, generator=generator, **options).images[0]
        # In company of other rows the last bit of a product may differ.
        assert np.abs(np.subtract(picture, expected, dtype=float)).max() <= 1


def test_more_pictures_than_a_batch_keep_their_order(tiny_folders: Folders) -> None:
    pipeline, spec = load_plain(tiny_folders["sd"], "sd"), tiny_spec("sd")
    wishes = [("red", seed) for seed in range(6)]
    together = make_pictures(pipeline, spec, wishes, **SIZE)
    last = make_pictures(pipeline, spec, wishes[5:], **SIZE)
    assert len(together) == 6
    assert np.abs(np.subtract(together[5], last[0], dtype=float)).max() <= 1
    assert np.abs(np.subtract(together[4], last[0], dtype=float)).max() > 1


@pytest.mark.parametrize(
    "changes",
    [{"scheduler": "dpm++2m"}, {"num_inference_steps": 4}, {"guidance_scale": 1.0}, {"negative_prompt": "blue"}],
    ids=lambda changes: next(iter(changes)),
)
def test_how_it_is_made_is_what_the_models_entry_says(changes: dict[str, object], tiny_folders: Folders) -> None:
    # What was learned makes words matter, which to random weights they hardly do.
    pipeline, spec = learned(tiny_folders["sd"], "sd", text_encoder=True).pipeline, tiny_spec("sd")
    usual = make_pictures(pipeline, spec, WISHES, **SIZE)
    other = make_pictures(pipeline, with_defaults(spec, **changes), WISHES, **SIZE)
    assert other[0].tobytes() != usual[0].tobytes()
    assert make_pictures(pipeline, spec, WISHES, **SIZE)[0].tobytes() == usual[0].tobytes()


def test_the_training_cannot_tell_that_pictures_were_made(tiny_folders: Folders) -> None:
    learner = learned(tiny_folders["sd"], "sd", dropout=0.5)
    learner.train_mode(True)
    unet, scheduler = learner.pipeline.unet, learner.pipeline.scheduler
    scheduler.set_timesteps(7)
    modes = {name: module.training for name, module in unet.named_modules()}
    before, chance = learner.state(), torch.get_rng_state()
    # Its steps draw noise, dropout would, and a library may draw what it likes.
    spec = with_defaults(tiny_spec("sd"), scheduler="euler-a")
    draws: list[torch.Tensor] = []
    unet.register_forward_pre_hook(lambda *_: draws.append(torch.rand(1)))
    first = make_pictures(learner.pipeline, spec, WISHES, **SIZE)
    assert torch.equal(torch.get_rng_state(), chance)
    assert {name: module.training for name, module in unet.named_modules()} == modes
    assert any(modes.values())
    assert learner.pipeline.scheduler is scheduler
    assert scheduler.num_inference_steps == 7
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.state().items())
    assert all(parameter.requires_grad for parameter in learner.trainable().values())
    torch.rand(5)
    again = make_pictures(learner.pipeline, spec, WISHES, **SIZE)
    assert [picture.tobytes() for picture in first] == [picture.tobytes() for picture in again]


def test_an_error_in_the_middle_leaves_the_modes_as_they_were(tiny_folders: Folders) -> None:
    learner = learned(tiny_folders["sd"], "sd")
    learner.train_mode(True)
    with pytest.raises(ValueError, match="divisible by 8"):
        make_pictures(learner.pipeline, tiny_spec("sd"), WISHES, width_px=63, height_px=64)
    assert learner.pipeline.unet.training


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux"])
def test_without_its_adapter_a_pipeline_is_the_base_model(family: Family, tiny_folders: Folders) -> None:
    learner = learned(tiny_folders[family], family, text_encoder=True)
    adapted = pictures_of(learner, family)
    with without_adapter(learner.pipeline):
        base = pictures_of(learner, family)
    plain = make_pictures(load_plain(tiny_folders[family], family), tiny_spec(family), WISHES, **SIZE)
    assert np.abs(np.subtract(base, plain, dtype=float)).max() <= 1
    assert [picture.tobytes() for picture in pictures_of(learner, family)] == [p.tobytes() for p in adapted]
    assert adapted[0].tobytes() != base[0].tobytes()
    assert all(parameter.requires_grad for parameter in learner.trainable().values())


def test_wishes_take_the_prompts_in_turn_and_each_its_own_seed() -> None:
    recipe = tiny_recipe(samples={"prompts": ["{trigger}", "{trigger} in red"]})
    assert sample_wishes(recipe, "sks person", 2**63 - 2, 3) == [
        ("sks person", 2**63 - 2),
        ("sks person in red", 2**63 - 1),
        ("sks person", 0),
    ]


def test_a_kept_picture_says_how_it_was_made(tmp_path: Path) -> None:
    shown = keep_picture(Image.new("RGB", (8, 4), "red"), tmp_path, "samples/a.png", ("red", 3), 40)
    assert asdict(shown) == {
        "file": "samples/a.png",
        "prompt": "red",
        "seed": 3,
        "step": 40,
        "width_px": 8,
        "height_px": 4,
        "sha256": hashlib.sha256((tmp_path / "samples/a.png").read_bytes()).hexdigest(),
    }
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["a.png"]
