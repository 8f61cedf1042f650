"""Small pictures of latents look like what the autoencoder would make of them."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from configs.settings import ModelSettings
from models.catalog import load_catalog
from models.loader import load_model
from models.lora import LoraBank
from pipelines.families import FAMILIES
from pipelines.families.base import Family
from pipelines.previews import SMALLEST_SIDE_PX, LatentColours, smooth_pictures


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Family:
    settings = ModelSettings(device="cpu", dtype="float32", num_threads=1)
    loaded = load_model(load_catalog()["emoji-3d"], settings, tmp_path_factory.mktemp("previews"))
    bank = LoraBank(loaded.pipeline, "sd", loaded.device, loaded.dtype, max_device_bytes=0, max_host_bytes=0)
    return FAMILIES["sd"](loaded, bank)


def test_the_colours_of_pictures_never_seen_are_close(shipped: Family) -> None:
    generator = torch.Generator("cpu").manual_seed(123)
    with torch.inference_mode():
        colours = LatentColours.fit(shipped)
        pictures = smooth_pictures(3, 128, generator)
        latents = torch.cat([shipped.encode_picture(picture[None], generator) for picture in pictures])
        seen = colours.colours(latents)
    true = torch.nn.functional.adaptive_avg_pool2d(pictures, latents.shape[-2:]).permute(0, 2, 3, 1) / 2 + 0.5
    guess = true.mean(dim=(0, 1, 2)).expand_as(true)
    explained = 1 - (seen - true).pow(2).sum() / (true - guess).pow(2).sum()
    assert explained > 0.5, f"{explained:.2f} of the variance"


def test_a_drawing_is_a_jpeg_large_enough_to_be_seen(shipped: Family) -> None:
    with torch.inference_mode():
        colours = LatentColours.fit(shipped)
        data = colours.draw(torch.randn(1, shipped.pipeline.vae.config.latent_channels, 6, 8))
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG"
        assert image.width >= SMALLEST_SIDE_PX
        assert image.width * 6 == image.height * 8
        assert np.asarray(image).std() > 1


def test_fitting_again_gives_the_same_map(shipped: Family) -> None:
    with torch.inference_mode():
        first, second = (LatentColours.fit(shipped).weights for _ in range(2))
    torch.testing.assert_close(first, second, atol=1e-3, rtol=0)


def test_latents_that_are_not_finite_still_make_a_drawing(shipped: Family) -> None:
    with torch.inference_mode():
        colours = LatentColours.fit(shipped)
        data = colours.draw(torch.full((1, shipped.pipeline.vae.config.latent_channels, 4, 4), torch.nan))
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (SMALLEST_SIDE_PX, SMALLEST_SIDE_PX)
