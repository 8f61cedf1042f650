"""Folders of every family load, and a folder of the wrong kind does not."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from configs.settings import ModelSettings
from models.catalog import load_catalog
from models.errors import ModelError, UnsafeWeights, WeightsError
from models.folder import PIPELINE_CLASSES
from models.loader import PIPELINES, load_model, pick_device, pick_dtype
from models.spec import Family
from models.weights import hash_folder
from tests.models.tiny import tiny_spec


def settings_for(family: Family, folder: Path, **options: object) -> ModelSettings:
    return ModelSettings(**({"dirs": {f"tiny-{family}": folder}, "device": "cpu", "num_threads": 1} | options))


@pytest.mark.parametrize("family", list(PIPELINES))
def test_every_family_loads_from_its_own_classes(
    family: Family, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(f"tiny_{family}")
    loaded = load_model(tiny_spec(family), settings_for(family, folder), tmp_path)
    assert type(loaded.pipeline) is PIPELINES[family]
    assert type(loaded.pipeline).__name__ == PIPELINE_CLASSES[family]
    assert (loaded.device.type, loaded.dtype, loaded.folder) == ("cpu", torch.float32, folder)
    assert loaded.weights_sha256 == hash_folder(folder)
    assert loaded.num_parameters > 50_000
    assert getattr(loaded.pipeline, "safety_checker", None) is None
    assert all(p.dtype == torch.float32 for p in loaded.pipeline.vae.parameters())


def test_the_dtype_of_the_settings_is_honoured(tiny_sd: Path, tmp_path: Path) -> None:
    loaded = load_model(tiny_spec("sd"), settings_for("sd", tiny_sd, dtype="bfloat16"), tmp_path)
    assert {p.dtype for p in loaded.pipeline.unet.parameters()} == {torch.bfloat16}


def test_a_family_that_does_not_fit_the_folder_is_named(tiny_sd: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="holds a StableDiffusionPipeline, but family 'sdxl' needs a Stable.*XL"):
        load_model(tiny_spec("sdxl"), settings_for("sdxl", tiny_sd), tmp_path)


def test_a_pickle_is_never_opened(sd_copy: Path, tmp_path: Path) -> None:
    proof = tmp_path / "it-ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(proof),)

    weights = sd_copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.with_suffix(".bin").write_bytes(pickle.dumps(Evil()))
    load_model(tiny_spec("sd"), settings_for("sd", sd_copy), tmp_path)
    weights.unlink()
    with pytest.raises(UnsafeWeights, match=r"diffusion_pytorch_model\.bin"):
        load_model(tiny_spec("sd"), settings_for("sd", sd_copy), tmp_path)
    assert not proof.exists()


def test_damaged_weights_are_a_weights_error(sd_copy: Path, tmp_path: Path) -> None:
    weights = sd_copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cannot be loaded as a StableDiffusionPipeline"):
        load_model(tiny_spec("sd"), settings_for("sd", sd_copy), tmp_path)


def test_a_variant_is_loaded_where_the_folder_has_it(tiny_sd: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_sd, tmp_path / "variants"))
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        (folder / part / f"{stem}.safetensors").rename(folder / part / f"{stem}.fp16.safetensors")
    spec = tiny_spec("sd")
    spec = spec.model_copy(update={"source": spec.source.model_copy(update={"variant": "fp16"})})
    for source in (folder, tiny_sd):
        loaded = load_model(spec, settings_for("sd", source), tmp_path)
        assert loaded.num_parameters > 50_000


def test_device_and_dtype_are_picked_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    sdxl = load_catalog()["sdxl"]
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert pick_dtype("auto", sdxl, cpu) == torch.float32
    assert pick_dtype("auto", sdxl, cuda) == torch.float16
    assert pick_dtype("bfloat16", sdxl, cpu) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (pick_device("auto"), pick_device("cpu")) == (cpu, cpu)
    with pytest.raises(ModelError, match=r"models\.device is cuda"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (pick_device("auto"), pick_device("cpu")) == (cuda, cpu)
