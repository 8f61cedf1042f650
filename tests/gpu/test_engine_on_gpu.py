"""The engine on CUDA: the embedded model draws the same picture there as on the CPU."""

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs.settings import PROJECT_DIR, EngineSettings, ModelSettings
from models.catalog import load_catalog
from models.loader import load_model
from pipelines.engine import Engine
from pipelines.preparing import Sources
from pipelines.request import GenerationRequest, LoraChoice, StoredFile
from tests.models.tiny_loras import make_lora

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

EMBEDDED = PROJECT_DIR / "models" / "embedded" / "emoji-3d"
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


def pixels(folder: Path, device: str, dtype: str, **engine: object) -> list[np.ndarray]:
    """Four requests at once: two sizes, one without guidance, one with an adapter."""
    settings = ModelSettings.model_validate({"device": device, "dtype": dtype})
    loaded = load_model(load_catalog()["emoji-3d"], settings, folder / "state")
    adapter = make_lora(folder / "adapter.safetensors", EMBEDDED, "sd", strength=0.3)
    choice = LoraChoice("adapter@1", 0.8, StoredFile("adapter", hashlib.sha256(adapter.read_bytes()).hexdigest()))
    requests = [
        REQUEST,
        replace(REQUEST, seed=8, guidance_scale=1.0),
        replace(REQUEST, seed=9, width_px=96),
        replace(REQUEST, seed=10, loras=(choice,)),
    ]
    sources = Sources(read=lambda file: b"", fetch=lambda file: adapter)
    model = Engine(loaded, EngineSettings.model_validate(engine), sources=sources)
    try:
        with ThreadPoolExecutor(len(requests)) as callers:
            made = [result.images[0] for result in callers.map(model.generate, requests)]
    finally:
        model.close()
    return [np.asarray(Image.open(io.BytesIO(image.data)).convert("RGB"), dtype=np.float64) for image in made]


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    return pixels(tmp_path_factory.mktemp("cpu"), "cpu", "float32")


@pytest.mark.parametrize(
    ("dtype", "lowest_psnr_db", "engine"),
    [
        ("float32", 40.0, {}),
        ("bfloat16", 25.0, {}),
        ("float32", 40.0, {"compile": True, "measure_rows": (1, 2, 4, 8)}),
        ("float32", 40.0, {"compile": True, "cuda_graphs": True, "measure_rows": (1, 2, 4, 8)}),
    ],
    ids=["float32", "bfloat16", "compiled", "cuda-graphs"],
)
def test_the_same_seed_gives_the_same_picture_as_on_the_cpu(
    tmp_path: Path, on_cpu: list[np.ndarray], dtype: str, lowest_psnr_db: float, engine: dict[str, object]
) -> None:
    for ours, expected in zip(pixels(tmp_path, "cuda", dtype, **engine), on_cpu, strict=True):
        error = np.mean((ours - expected) ** 2)
        assert 10 * np.log10(255**2 / max(error, 1e-9)) >= lowest_psnr_db
