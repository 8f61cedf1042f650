"""Catalogue entries of real models, served from local folders of the same classes with small random weights."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, StableDiffusionXLPipeline
from PIL import Image

from pipelines.media import read_provenance
from tests.cluster.conftest import running_darkroom
from tests.models.tiny import make_tiny_flux, make_tiny_sdxl


@pytest.mark.slow
def test_sdxl_and_flux_are_served_from_local_folders(tmp_path: Path):
    sdxl, flux = tmp_path / "sdxl", tmp_path / "flux"
    make_tiny_sdxl(sdxl)
    make_tiny_flux(flux, guidance_embeds=False)
    options = [
        *("--model", "sdxl", "--model-dir", f"sdxl={sdxl}"),
        *("--model", "flux-schnell", "--model-dir", f"flux-schnell={flux}"),
    ]
    body = {"prompt": "a red apple", "size": "512x512", "seed": 3, "num_inference_steps": 2}
    with running_darkroom(tmp_path, *options) as server, server.client() as client:
        assert {m["id"]: m["ready"] for m in client.get("/v1/models").json()["data"]} == {
            "sdxl": True,
            "flux-schnell": True,
        }
        for model, pipeline_class, folder, extra in (
            ("sdxl", StableDiffusionXLPipeline, sdxl, {}),
            # [schnell] was trained with 256 text tokens; the pipeline's own default is [dev]'s 512.
            ("flux-schnell", FluxPipeline, flux, {"max_sequence_length": 256}),
        ):
            reply = client.post("/v1/images/generations", json={**body, "model": model, "response_format": "b64_json"})
            assert reply.status_code == 200, reply.text
            data = base64.b64decode(reply.json()["data"][0]["b64_json"])
            resolved = client.get(f"/v1/jobs/{reply.json()['job_id']}").json()["request"]
            pipeline = pipeline_class.from_pretrained(folder, dtype=torch.float32)
            pipeline.set_progress_bar_config(disable=True)
            expected = pipeline(
                prompt=body["prompt"],
                width=512,
                height=512,
                num_inference_steps=2,
                guidance_scale=resolved["guidance_scale"],
                generator=torch.Generator("cpu").manual_seed(3),
                output_type="np",
                **extra,
            ).images[0]
            ours = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.int16)
            assert int(np.abs(ours - np.round(expected * 255)).max()) <= 1
            record = read_provenance(data).darkroom
            assert record is not None and record["model"] == model
