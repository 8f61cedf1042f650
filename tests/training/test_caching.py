"""A cache holds what encoding in every step would have given, and nothing of what is held out is mirrored."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.spec import Family
from tests.training.tiny_learning import make_batch, make_pictures, shake, tiny_learner, tiny_recipe
from training.caching import SampleCache, build_cache
from training.learners.adapted import AdaptedLearner
from training.learners.base import Batch, Draws, LatentStats


def silent(_told: dict[str, Any]) -> None: ...


def cached(learner: AdaptedLearner, folder: Path, sizes: list[tuple[int, int]], **options: Any) -> SampleCache:
    pictures = make_pictures(folder, sizes, num_held_out=options.pop("num_held_out", 0))
    return build_cache(learner, folder, pictures, learner.recipe, tell=options.pop("tell", silent), **options)


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux"])
@pytest.mark.parametrize("text_encoder", [False, True])
def test_a_cached_batch_has_the_loss_of_one_that_is_encoded_in_the_step(
    tiny_folders: dict[Family, Path], tmp_path: Path, family: Family, text_encoder: bool
) -> None:
    recipe = tiny_recipe(lora={"text_encoder": text_encoder}, pictures={"aspect_buckets": False})
    learner = tiny_learner(tiny_folders[family], family, recipe)
    shake(learner)
    cache = cached(learner, tmp_path / "data", [(80, 64), (64, 64), (64, 96)])
    batch = cache.batch([2, 0], without_words=[False, True])

    vae, images = learner.pipeline.vae, []
    for index, (left, top, right, bottom) in ((2, (0, 16, 64, 80)), (0, (8, 0, 72, 64))):
        image = Image.open(tmp_path / "data" / f"images/{index:04}.png").crop((left, top, right, bottom))
        images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1)
    _, draws = make_batch(learner)
    with torch.no_grad():
        posterior = vae.encode(torch.stack(images)).latent_dist
    drawn = posterior.mean + posterior.std * draws.posterior_BCHW
    latents = (drawn - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor
    shapes = [learner.shape_of((64, 96), (0, 16), (64, 64)), learner.shape_of((80, 64), (8, 0), (64, 64))]
    in_step = Batch(
        LatentStats(latents, torch.zeros_like(latents)),
        learner.cache_texts(["red car 0", ""]),
        {name: torch.cat([shape[name] for shape in shapes]) for name in shapes[0]},
        torch.ones(2),
    )
    torch.testing.assert_close(learner.plain_losses(batch, draws), learner.plain_losses(in_step, draws))
    assert batch.weight_B.tolist() == [1.0, 1.0]


def test_samples_come_in_the_order_of_the_pictures_with_their_cuts(
    tiny_folders: dict[Family, Path], tmp_path: Path
) -> None:
    learner = tiny_learner(tiny_folders["sd"], "sd", tiny_recipe(pictures={"mirror": True, "resolution_px": 96}))
    told: list[dict[str, Any]] = []
    cache = cached(learner, tmp_path / "data", [(160, 90), (96, 96), (160, 90)], num_held_out=1, tell=told.append)
    found = [(sample.picture, sample.bucket, sample.is_mirrored, sample.is_held_out) for sample in cache.samples]
    wide, square = (128, 64), (80, 80)
    assert found == [
        (0, wide, False, False),
        (0, square, False, False),
        (0, wide, True, False),
        (0, square, True, False),
        (1, (96, 96), False, False),
        (1, (96, 96), True, False),
        (2, wide, False, True),
        (2, square, False, True),
    ]
    assert told == [{"stage": "cache", "done": done, "of": 3} for done in (1, 2, 3)]


def test_every_row_of_a_bucket_is_its_own_picture(
    tiny_folders: dict[Family, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = tiny_learner(tiny_folders["sd"], "sd", tiny_recipe(pictures={"mirror": True, "aspect_buckets": False}))
    whole = cached(learner, tmp_path / "data", [(64, 64)] * 4)
    ids = range(len(whole.samples))
    latents = whole.batch(ids, without_words=[False] * 8).latents.mean_BCHW
    assert len({row.sum().item() for row in latents}) == 8
    monkeypatch.setattr("training.caching.PIXELS_AT_ONCE", 3 * 64 * 64)
    encode, sizes = learner.cache_pictures, []
    monkeypatch.setattr(learner, "cache_pictures", lambda pixels: sizes.append(len(pixels)) or encode(pixels))
    in_threes = cached(learner, tmp_path / "again", [(64, 64)] * 4)
    assert sizes == [3, 3, 2]
    torch.testing.assert_close(in_threes.batch(ids, without_words=[False] * 8).latents.mean_BCHW, latents)
    mirrored = whole.batch([0, 1], without_words=[False] * 2)
    pixels = torch.from_numpy(np.array(Image.open(tmp_path / "data" / "images/0000.png"))).permute(2, 0, 1)
    stats = learner.cache_pictures(torch.stack([pixels, pixels.flip(-1)]) / 127.5 - 1)
    torch.testing.assert_close(mirrored.latents.mean_BCHW, stats.mean_BCHW)


def test_prior_pictures_weigh_what_the_recipe_says_and_have_its_words(
    tiny_folders: dict[Family, Path], tmp_path: Path
) -> None:
    recipe = tiny_recipe(loss={"prior_prompt": "car", "prior_weight": 0.25})
    learner = tiny_learner(tiny_folders["sd"], "sd", recipe)
    make_pictures(tmp_path / "prior", [(64, 64)] * 2)
    cache = cached(
        learner, tmp_path / "data", [(64, 64)], prior_pictures=sorted((tmp_path / "prior" / "images").iterdir())
    )
    assert [(sample.is_prior, sample.picture) for sample in cache.samples] == [(False, 0), (True, 0), (True, 1)]
    batch = cache.batch([0, 2], without_words=[False, False])
    assert batch.weight_B.tolist() == [1.0, 0.25]
    expected = learner.cache_texts(["red car 0", "car"])["tokens"]
    torch.testing.assert_close(batch.texts["tokens"], expected)


def test_samples_of_two_buckets_are_no_batch(tiny_folders: dict[Family, Path], tmp_path: Path) -> None:
    learner = tiny_learner(tiny_folders["sd"], "sd", tiny_recipe(pictures={"resolution_px": 96}))
    cache = cached(learner, tmp_path / "data", [(64, 64), (160, 64)])
    buckets = [sample.bucket for sample in cache.samples]
    assert len(set(buckets)) > 1
    with pytest.raises(ValueError, match="too many values"):
        cache.batch(range(len(buckets)), without_words=[False] * len(buckets))


def test_a_cached_bfloat16_model_still_encodes_pictures_in_float32(
    tiny_folders: dict[Family, Path],
) -> None:
    learner = tiny_learner(tiny_folders["sdxl"], "sdxl")
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    exact = learner.cache_pictures(pixels)
    learner.pipeline.vae.to(torch.bfloat16)
    rounded = learner.cache_pictures(pixels)
    assert rounded.mean_BCHW.dtype == torch.float32
    assert learner.pipeline.vae.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.mean_BCHW, exact.mean_BCHW, rtol=0.1, atol=0.02)


def test_draws_are_not_cached(tiny_folders: dict[Family, Path], tmp_path: Path) -> None:
    learner = tiny_learner(tiny_folders["sd"], "sd")
    batch = cached(learner, tmp_path / "data", [(64, 64)]).batch([0], without_words=[False])
    _, draws = make_batch(learner, ["x"])
    other = Draws(draws.posterior_BCHW + 1, draws.noise_BCHW, draws.timestep_B, draws.offset_BC11)
    assert (batch.latents.std_BCHW > 0).all()
    assert not torch.equal(learner.plain_losses(batch, draws), learner.plain_losses(batch, other))
