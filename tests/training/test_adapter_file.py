"""The published file, read by plain diffusers, by the engine's reader, and by the programs that read its header."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from models.adapters import check_file
from models.kohya_export import write_kohya
from models.lora_files import read_lora
from models.safetensors_file import read_header
from models.spec import Family
from tests.models.tiny import tiny_spec
from tests.training.adapters import SIZE, WISHES, facts_of, learned, pictures_of, written
from tests.training.tiny_learning import load_plain
from training.sampling import make_pictures, without_adapter

Folders = dict[Family, Path]
EVERYTHING = {"targets": ["attention", "feed_forward", "convolutions"], "text_encoder": True}
FLUX_EVERYTHING = {"targets": ["attention", "feed_forward"], "text_encoder": True}


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@pytest.mark.parametrize(
    ("family", "lora"),
    [
        ("sd", {}),
        ("sd", EVERYTHING),
        ("sd", EVERYTHING | {"dora": True}),
        ("sdxl", EVERYTHING),
        ("sdxl", EVERYTHING | {"dora": True}),
        ("flux", FLUX_EVERYTHING),
        ("flux", FLUX_EVERYTHING | {"dora": True}),
    ],
)
def test_plain_diffusers_makes_the_very_pixels_of_the_trained_adapter(
    family: Family, lora: dict[str, object], tiny_folders: Folders, tmp_path: Path
) -> None:
    learner = learned(tiny_folders[family], family, **lora)
    own = pictures_of(learner, family)
    with without_adapter(learner.pipeline):
        base = pictures_of(learner, family)
    path = written(learner, family, tmp_path / "model.safetensors")
    plain = load_plain(tiny_folders[family], family)
    plain.load_lora_weights(tmp_path, weight_name=path.name)
    again = make_pictures(plain, tiny_spec(family), WISHES, **SIZE)
    # On a CPU rounding may depend on where in memory a tensor lies, and this model was read from its files anew.
    assert np.abs(np.subtract(own, again, dtype=float)).mean() < 1e-3
    assert np.abs(np.subtract(own, again, dtype=float)).max() <= 1
    assert np.abs(np.subtract(own, base, dtype=float)).mean() > 1


def test_every_trained_tensor_is_in_the_file_as_it_was_trained(tiny_folders: Folders, tmp_path: Path) -> None:
    learner = learned(tiny_folders["sd"], "sd", **EVERYTHING)
    tensors = load_file(written(learner, "sd", tmp_path / "model.safetensors"))
    state = learner.state()
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], state[name]) and tensors[name].dtype == torch.float32 for name in state)
    assert {name.split(".")[0] for name in tensors} == {"unet", "text_encoder"}
    assert {tensor.ndim for tensor in tensors.values()} == {2, 4}


def test_equal_weights_and_facts_are_equal_bytes(tiny_folders: Folders, tmp_path: Path) -> None:
    learner = learned(tiny_folders["sdxl"], "sdxl", **EVERYTHING)
    first = written(learner, "sdxl", tmp_path / "first.safetensors").read_bytes()
    # Another learner of the same seed: nothing of the process, its paths or its sets gets into the file.
    other = learned(tiny_folders["sdxl"], "sdxl", **EVERYTHING)
    second = written(other, "sdxl", tmp_path / "second.safetensors").read_bytes()
    assert first == second
    assert str(tiny_folders["sdxl"]).encode() not in first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.safetensors", "second.safetensors"]


def test_nothing_in_the_header_is_in_an_order_that_differs_from_process_to_process(
    tiny_folders: Folders, tmp_path: Path
) -> None:
    learner = learned(tiny_folders["sd"], "sd", text_encoder=True)
    path = written(learner, "sd", tmp_path / "a.safetensors")
    metadata = read_header(path).metadata
    assert list(metadata) == sorted(metadata)
    settings = json.loads(metadata["lora_adapter_metadata"])
    assert (settings["unet.r"], settings["unet.lora_alpha"]) == (4, 10)
    targets = settings["text_encoder.target_modules"]
    assert len(targets) == 8
    assert targets == sorted(targets)


def test_header_names_the_hash_of_all_bytes_behind_it(tiny_folders: Folders, tmp_path: Path) -> None:
    path = written(learned(tiny_folders["sd"], "sd"), "sd", tmp_path / "a.safetensors")
    data_sha256 = hashlib.sha256(path.read_bytes()[read_header(path).data_start :]).hexdigest()
    metadata = metadata_of(path)
    assert metadata["modelspec.hash_sha256"] == f"0x{data_sha256}"
    assert metadata["sshs_model_hash"] == data_sha256


def test_kohya_export_carries_the_true_alpha_and_is_read_back_as_the_same_adapter(
    tiny_folders: Folders, tmp_path: Path
) -> None:
    learner = learned(tiny_folders["sd"], "sd", **EVERYTHING)
    source, target = written(learner, "sd", tmp_path / "a.safetensors"), tmp_path / "kohya.safetensors"
    write_kohya(source, target, "sd")
    assert (check_file(source), check_file(target)) == ("diffusers", "kohya")
    alphas = [tensor for name, tensor in load_file(target).items() if name.endswith(".alpha")]
    assert {float(alpha) for alpha in alphas} == {10.0}
    plain = load_plain(tiny_folders["sd"], "sd")
    before, after = (read_lora(path, plain, "sd").layers for path in (source, target))
    assert len(alphas) == len(before) == len(after)
    for name, layer in before.items():
        torch.testing.assert_close(after[name].down, layer.down, rtol=0, atol=0)
        torch.testing.assert_close(after[name].up, layer.up, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("family", "kohya", "modelspec"),
    [
        ("sd", "sd_v1", "stable-diffusion-v1/lora"),
        ("sdxl", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
        ("flux", "flux1", "flux-1-dev/lora"),
    ],
)
def test_header_tells_other_programs_what_the_file_is(
    family: Family, kohya: str, modelspec: str, tiny_folders: Folders, tmp_path: Path
) -> None:
    learner = learned(tiny_folders[family], family)
    metadata = metadata_of(written(learner, family, tmp_path / "a.safetensors"))
    assert all(isinstance(value, str) for value in metadata.values())
    expected = {
        "ss_base_model_version": kohya,
        "ss_v2": "False",
        "ss_network_dim": "4",
        "ss_network_alpha": "10.0",
        "ss_network_args": "{}",
        "ss_output_name": "signer",
        "ss_sd_model_name": f"tiny-{family}",
        "ss_training_started_at": "1800000000",
        "ss_num_train_images": "3",
        "ss_steps": "120",
        "ss_seed": "7",
        "ss_learning_rate": "0.0001",
        "ss_resolution": "(64, 64)",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": modelspec,
        "modelspec.implementation": "diffusers",
        "modelspec.title": "signer",
        "modelspec.resolution": "64x64",
        "modelspec.date": "2027-01-15T08:00:00+00:00",
        "modelspec.trigger_phrase": "sks person",
        "darkroom.job_id": "job_1",
        "darkroom.base_sha256": facts_of(family).base_sha256,
        "darkroom.recipe_sha256": learner.recipe.sha256,
        "format": "pt",
    }
    assert {key: metadata.get(key) for key in expected} == expected
    assert metadata["ss_network_module"].startswith("networks.lora")
    assert json.loads(metadata["ss_tag_frequency"]) == {"1_signer": {"red": 1, "sks person": 2}}
    assert json.loads(metadata["ss_bucket_info"])["buckets"]["1"] == {"resolution": [32, 32], "count": 2}
    assert json.loads(metadata["darkroom.recipe"])["lora"]["rank"] == 4
    assert "None" not in metadata.values()
