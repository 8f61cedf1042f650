"""What is peculiar to one family, beside the promise that all of them keep."""

import numpy as np
import pytest
import torch
from torch import nn

from models.errors import GenerationError
from models.loader import PIPELINES
from models.spec import Family
from pipelines.families import FAMILIES
from pipelines.speed import prefer_channels_last
from tests.pipelines.bench import Bench


def test_a_schedule_that_cannot_be_made_of_one_step_is_refused(benches: dict[Family, Bench]) -> None:
    qwen = benches["qwen-image"]
    with pytest.raises(GenerationError, match="needs more than 1 step"):
        qwen.engine.generate(qwen.request(num_inference_steps=1))
    assert len(qwen.pixels(qwen.request(num_inference_steps=2))) == 1


def test_qwen_image_is_guided_only_against_a_negative_prompt(benches: dict[Family, Bench]) -> None:
    qwen = benches["qwen-image"]
    assert qwen.runner.is_guided(qwen.request(negative_prompt=" "))
    assert not qwen.runner.is_guided(qwen.request(negative_prompt=""))
    assert not qwen.runner.is_guided(qwen.request(negative_prompt=" ", guidance_scale=1.0))


def test_z_image_is_guided_from_any_scale_above_nothing(benches: dict[Family, Bench]) -> None:
    z_image = benches["z-image"]
    assert z_image.runner.is_guided(z_image.request(guidance_scale=0.5))
    assert not z_image.runner.is_guided(z_image.request(guidance_scale=0.0))


def test_a_text_has_the_length_that_it_has_alone(benches: dict[Family, Bench]) -> None:
    for family in ("z-image", "qwen-image"):
        runner = benches[family].runner
        texts = ["a boat", "a red apple", None, "a red boat in the fog"]
        together = runner.encode(texts, [()] * len(texts))
        assert len({len(text.tokens_LD) for text in together}) == len(texts)
        for text, embedding in zip(texts, together, strict=True):
            (alone,) = runner.encode([text], [()])
            torch.testing.assert_close(embedding.tokens_LD, alone.tokens_LD, rtol=1e-4, atol=1e-4)


def test_a_picture_in_tiles_is_the_same_where_none_overlap(bench: Bench) -> None:
    channels = bench.runner.latent_channels
    latents = torch.randn(1, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole, tiled = (bench.runner.decode_latents(latents, tiled=tiled) for tiled in (False, True))
    assert tiled.shape == whole.shape == (1, 64, 64, 3)
    np.testing.assert_allclose(whole[:, :48, :48], tiled[:, :48, :48], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_autoencoder_can_be_laid_out_for_fast_convolutions(family: Family, benches: dict[Family, Bench]) -> None:
    pipeline = PIPELINES[family].from_pretrained(str(benches[family].folder))
    prefer_channels_last(pipeline)
    layers = [layer for layer in pipeline.vae.modules() if isinstance(layer, nn.Conv2d)]
    assert layers
    assert all(layer.weight.is_contiguous(memory_format=torch.channels_last) for layer in layers)
