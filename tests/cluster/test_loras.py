"""Adapters against the whole server: from a file to a picture, through S3, the engine's check and a shared batch."""

import base64
import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file

from configs.settings import PROJECT_DIR
from tests.cluster.conftest import Darkroom
from tests.models.tiny_loras import make_lora

FOLDER = PROJECT_DIR / "models" / "embedded" / "emoji-3d"
NUM_ADAPTERS = 8


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER, dtype=torch.float32, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def files(pipeline: StableDiffusionPipeline, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("loras")
    return [
        make_lora(
            folder / f"adapter-{index}.safetensors",
            pipeline,
            "sd",
            format="kohya" if index % 2 else "peft",
            rank=2 + index,
            alpha=4.0,
            seed=index,
            strength=0.3,
        )
        for index in range(NUM_ADAPTERS)
    ]


@pytest.fixture(scope="module")
def names(darkroom: Darkroom, files: list[Path]) -> list[str]:
    """The files as adapters of the server, imported one after the other."""
    return [imported(darkroom, path, path.stem)["id"] for path in files]


def imported(darkroom: Darkroom, path: Path, name: str) -> dict[str, Any]:
    with darkroom.client() as http, path.open("rb") as file:
        answer = http.post("/v1/loras/import", data={"name": name}, files={"file": (path.name, file)})
    assert answer.status_code in {200, 201}, answer.text
    body: dict[str, Any] = answer.json()
    return body


def picture(darkroom: Darkroom, seed: int, loras: list[dict[str, Any]]) -> np.ndarray:
    body = {"prompt": "a red apple", "seed": seed, "num_inference_steps": 6, "loras": loras}
    with darkroom.client() as http:
        answer = http.post("/v1/images/generations", json={**body, "response_format": "b64_json"})
    assert answer.status_code == 200, answer.text
    with Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def plain(pipeline: StableDiffusionPipeline, seed: int, loras: dict[Path, float]) -> np.ndarray:
    """The same by somebody who uses diffusers and nothing of ours."""
    for path in loras:
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=path.stem)
    try:
        if loras:
            pipeline.set_adapters([path.stem for path in loras], adapter_weights=list(loras.values()))
        image = pipeline(
            "a red apple",
            width=128,
            height=128,
            num_inference_steps=6,
            guidance_scale=1.5,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]
    finally:
        pipeline.unload_lora_weights()
    return np.asarray(image).astype(int)


def test_eight_adapters_at_once_each_give_what_diffusers_gives(
    darkroom: Darkroom, pipeline: StableDiffusionPipeline, files: list[Path], names: list[str]
) -> None:
    wishes: list[list[dict[str, Any]]] = [[{"name": name, "scale": 0.9}] for name in names]
    wishes += [[], [{"name": names[0]}, {"name": names[3].partition("@")[0], "scale": -0.5}]]
    with ThreadPoolExecutor(len(wishes)) as callers:
        made = list(callers.map(lambda pair: picture(darkroom, *pair), enumerate(wishes)))
    expected: list[dict[Path, float]] = [{path: 0.9} for path in files]
    expected += [{}, {files[0]: 1.0, files[3]: -0.5}]
    without = plain(pipeline, 0, {})
    for seed, (ours, loras) in enumerate(zip(made, expected, strict=True)):
        assert np.abs(ours - plain(pipeline, seed, loras)).max() <= 2
    assert np.abs(made[0] - without).max() > 20, "an adapter that changes nothing would prove nothing"


def test_file_of_another_model_is_refused_by_the_key_that_does_not_fit(darkroom: Darkroom, tmp_path: Path) -> None:
    tensors = {
        "unet.down_blocks.9.attentions.0.proj_in.lora_A.weight": torch.zeros(4, 64),
        "unet.down_blocks.9.attentions.0.proj_in.lora_B.weight": torch.zeros(64, 4),
    }
    path = tmp_path / "other.safetensors"
    save_file(tensors, str(path))
    with darkroom.client() as http, path.open("rb") as file:
        answer = http.post("/v1/loras/import", data={"name": "other"}, files={"file": (path.name, file)})
        assert http.get("/v1/loras/other").status_code == 404
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "bad_adapter"
    assert "unet.down_blocks.9.attentions.0.proj_in" in answer.json()["error"]["message"]


def test_command_line_imports_uses_and_removes_an_adapter(
    darkroom: Darkroom, files: list[Path], tmp_path: Path
) -> None:
    program = str(Path(sys.executable).parent / "darkroom")
    env = darkroom.env | {"DARKROOM_API_KEY": darkroom.admin_key, "DARKROOM_URL": darkroom.url}

    def run(*arguments: str) -> str:
        done = subprocess.run([program, *arguments], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "by-hand@1" in run("loras", "import", str(files[2]), "--name", "by-hand")
    assert "by-hand" in run("loras", "list")
    run("generate", "a red apple", "--steps", "4", "--lora", "by-hand:0.5", "--out", str(tmp_path))
    assert list(tmp_path.glob("*.png"))
    run("loras", "delete", "by-hand")
    assert "by-hand" not in run("loras", "list")
