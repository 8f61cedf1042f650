"""The engine on CUDA: the embedded model draws the same picture there as on the CPU."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from configs.settings import ModelSettings
from models.catalog import load_catalog
from models.loader import load_model
from pipelines.engine import Engine
from pipelines.request import GenerationRequest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

REQUEST = GenerationRequest(
    model_id="emoji-3d",
    prompt="a red apple",
    negative_prompt="",
    width_px=128,
    height_px=128,
    num_images=1,
    seed=7,
    num_inference_steps=10,
    guidance_scale=4.0,
)


def pixels(tmp_path_factory: pytest.TempPathFactory, device: str, dtype: str) -> np.ndarray:
    settings = ModelSettings.model_validate({"device": device, "dtype": dtype})
    loaded = load_model(load_catalog()["emoji-3d"], settings, tmp_path_factory.mktemp("state"))
    (image,) = Engine(loaded).generate(REQUEST).images
    return np.asarray(Image.open(io.BytesIO(image.data)).convert("RGB"), dtype=np.float64)


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return pixels(tmp_path_factory, "cpu", "float32")


@pytest.mark.parametrize(("dtype", "lowest_psnr_db"), [("float32", 40.0), ("bfloat16", 25.0)])
def test_the_same_seed_gives_the_same_picture_as_on_the_cpu(
    tmp_path_factory: pytest.TempPathFactory, on_cpu: np.ndarray, dtype: str, lowest_psnr_db: float
):
    error = np.mean((pixels(tmp_path_factory, "cuda", dtype) - on_cpu) ** 2)
    assert 10 * np.log10(255**2 / max(error, 1e-9)) >= lowest_psnr_db
