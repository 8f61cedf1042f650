"""The promise: what comes out of the API is what the plain diffusers pipeline makes of the same seed."""

import base64
import io

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from configs.settings import PROJECT_DIR
from pipelines.media import read_provenance
from tests.cluster.conftest import Darkroom

FOLDER = PROJECT_DIR / "models" / "embedded" / "emoji-3d"


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER, dtype=torch.float32, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize(
    "wish",
    [
        {"prompt": "a red apple", "seed": 7},
        {"prompt": "a cat on a green background", "seed": 2**40, "guidance_scale": 7.5, "num_inference_steps": 11},
        {"prompt": "a dog", "seed": 0, "negative_prompt": "blue background", "size": "96x64", "num_inference_steps": 5},
        {"prompt": "a car", "seed": 3, "guidance_scale": 1.0, "num_inference_steps": 4},
    ],
)
def test_pixels_equal_the_plain_pipeline(darkroom: Darkroom, pipeline: StableDiffusionPipeline, wish: dict):
    with darkroom.client() as client:
        reply = client.post("/v1/images/generations", json={**wish, "response_format": "b64_json"})
        job = client.get(f"/v1/jobs/{reply.json()['job_id']}").json()
    data = base64.b64decode(reply.json()["data"][0]["b64_json"])
    ours = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.int16)
    resolved = job["request"]
    width, height = map(int, resolved["size"].split("x"))
    theirs = pipeline(
        prompt=resolved["prompt"],
        negative_prompt=resolved["negative_prompt"] or None,
        width=width,
        height=height,
        num_inference_steps=resolved["num_inference_steps"],
        guidance_scale=resolved["guidance_scale"],
        generator=torch.Generator("cpu").manual_seed(wish["seed"]),
        output_type="np",
    ).images[0]
    expected = np.round(theirs * 255).astype(np.int16)
    assert ours.shape == expected.shape
    assert int(np.abs(ours - expected).max()) <= 1


def test_the_picture_says_how_it_was_made(darkroom: Darkroom):
    with darkroom.client() as client:
        reply = client.post(
            "/v1/images/generations",
            json={"prompt": "a red apple", "seed": 5, "num_inference_steps": 2, "response_format": "b64_json"},
        ).json()
    provenance = read_provenance(base64.b64decode(reply["data"][0]["b64_json"]))
    assert provenance.parameters is not None and provenance.darkroom is not None
    assert provenance.parameters.startswith("a red apple\n")
    assert "Seed: 5" in provenance.parameters
    assert provenance.darkroom["seed"] == 5
    assert provenance.darkroom["request"]["prompt"] == "a red apple"
