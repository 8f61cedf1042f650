"""Adapters at rest: names, what makes a file a LoRA, the order of publication, and kohya's naming with a true alpha."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from models.adapters import (
    AdapterFolder,
    AdapterManifest,
    check_file,
    ensure_kohya,
    parse_reference,
    publish,
    read_manifest,
    remove,
)
from models.errors import AdapterError, BlobError, BlobNotFound
from tests.fakes import MemoryBlobs
from tests.models.lora_bytes import MODULES, Tensors, kohya_tensors, lora_bytes, peft_tensors

PEFT, OLD = ".lora_A.weight", "_lora.down.weight"
FOLDER = AdapterFolder(tenant="alice", job="imp_1", version=2)


def manifest(data: bytes, **changes: Any) -> AdapterManifest:
    import_facts: dict[str, Any] = {
        "name": "style",
        "version": 2,
        "base_model": "emoji-3d",
        "family": "sd",
        "sha256": hashlib.sha256(data).hexdigest(),
        "num_bytes": len(data),
        "naming": "diffusers",
        "components": ("unet", "text_encoder"),
        "num_layers": 3,
        "max_rank": 4,
        "created_at": 1_800_000_000.5,
        "source": "import",
        "trigger": "sks",
        "metadata": {"author": "☀"},
    }
    return AdapterManifest(**(import_facts | changes))


def naming(tmp_path: Path, tensors: Tensors) -> str:
    path = tmp_path / "file"
    path.write_bytes(lora_bytes(tensors))
    return check_file(path)


def exported(tmp_path: Path, data: bytes, **changes: Any) -> tuple[dict[str, np.ndarray], MemoryBlobs]:
    """The kohya file of a published adapter."""
    blobs = MemoryBlobs()
    blobs.put("temp/x", data, "application/octet-stream")
    facts = manifest(data, **changes)
    publish(blobs, FOLDER, facts, staged_key="temp/x")
    key = ensure_kohya(blobs, FOLDER, facts, scratch=tmp_path)
    return load(blobs.get(key)), blobs


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("alice-style", ("alice-style", None)),
        ("a", ("a", None)),
        ("0_x@1", ("0_x", 1)),
        ("a@999999999", ("a", 999_999_999)),
        ("x" * 64, ("x" * 64, None)),
        *((text, None) for text in ("", "A", "-a", "a b", "a/b", "a@", "a@0", "a@01", "a@-1", "a@1@2", "a@x", "ä")),
        *((text, None) for text in ("x" * 65, "a@1234567890", "a\n", "a@1\n", "../a", "a.b", "a@१")),
    ],
)
def test_a_reference_is_a_name_and_perhaps_a_version_or_nothing(text: str, parsed: tuple[str, int | None]) -> None:
    assert parse_reference(text) == parsed


@pytest.mark.parametrize(
    ("endings", "named"),
    [
        (("unet.a.lora_A.weight", "unet.a.lora_B.weight"), "diffusers"),
        (("unet.a.lora.down.weight", "unet.a.lora.up.weight"), "diffusers"),
        (("unet.a.to_q_lora.down.weight", "unet.a.to_q_lora.up.weight"), "diffusers"),
        (("text_encoder.a.lora_linear_layer.down.weight", "text_encoder.a.lora_linear_layer.up.weight"), "diffusers"),
        (("lora_unet_a.lora_down.weight", "lora_unet_a.lora_up.weight"), "kohya"),
        (("diffusion_model.a.lora_down.weight", "diffusion_model.a.lora_up.weight"), "comfyui"),
        (("base_model.model.a.lora_A.weight", "base_model.model.a.lora_B.weight"), "other"),
    ],
)
def test_every_usual_naming_is_recognised(tmp_path: Path, endings: tuple[str, str], named: str) -> None:
    tensors = {endings[0]: np.zeros((2, 8), np.float32), endings[1]: np.zeros((8, 2), np.float32)}
    assert naming(tmp_path, tensors) == named


def without(key: str) -> Tensors:
    return {name: array for name, array in peft_tensors().items() if name != key}


DOWN, UP = f"{MODULES[0]}.lora_A.weight", f"{MODULES[0]}.lora_B.weight"
NO_LORAS: dict[str, tuple[Tensors, str]] = {
    "a whole model": ({"unet.conv_in.weight": np.zeros((4, 4), np.float32)}, "unet.conv_in.weight' is no part"),
    "a LoHa": (kohya_tensors() | {"lora_unet_a.hada_w1_a": np.zeros((4, 4), np.float32)}, "lora_unet_a.hada_w1_a"),
    "magnitudes alone": (
        kohya_tensors() | {"lora_unet_a.dora_scale": np.zeros((4, 1), np.float32)},
        "lora_unet_a.dora_scale",
    ),
    "one magnitude": (
        peft_tensors() | {f"{MODULES[0]}.lora_magnitude_vector": np.zeros((), np.float16)},
        f"{MODULES[0]}.lora_magnitude_vector' is no list of magnitudes",
    ),
    "a bare ending": (peft_tensors() | {".alpha": np.zeros((), np.float32)}, "'.alpha' is no part"),
    "a down matrix alone": (without(UP), f"{DOWN}' has no partner: its layer lacks the up"),
    "an up matrix alone": (without(DOWN), f"{UP}' has no partner: its layer lacks the down"),
    "an alpha alone": (peft_tensors() | {"x.alpha": np.ones((), np.float32)}, "'x.alpha' has no partner"),
    "two ranks": (peft_tensors() | {UP: np.zeros((8, 3), np.float16)}, f"{UP}' has rank 3; its partner '{DOWN}' 4"),
    "no rank": (peft_tensors() | {DOWN: np.zeros((0, 16), np.float16)}, f"{DOWN}' is no matrix"),
    "a vector": (peft_tensors() | {DOWN: np.zeros(4, np.float16)}, f"{DOWN}' is no matrix"),
    "a list of alphas": (kohya_tensors() | {f"{MODULES[0]}.alpha": np.ones(2, np.float32)}, "has no partner"),
    "many alphas": (peft_tensors() | {f"{MODULES[0]}.alpha": np.ones(2, np.float32)}, "is no single number"),
    "one layer in two words": (
        peft_tensors() | {f"{MODULES[0]}.lora_down.weight": np.zeros((4, 16), np.float16)},
        "are for one layer",
    ),
}


@pytest.mark.parametrize("what", NO_LORAS)
def test_a_file_that_is_no_lora_is_refused_by_key(tmp_path: Path, what: str) -> None:
    tensors, told = NO_LORAS[what]
    with pytest.raises(AdapterError) as caught:
        naming(tmp_path, tensors)
    assert told in str(caught.value)


def test_the_manifest_comes_last_and_reads_back_as_it_was() -> None:
    blobs, order = MemoryBlobs(), []
    data = lora_bytes()
    blobs.put("temp/x", data, "application/octet-stream")
    put = blobs.put
    blobs.put = lambda key, *rest: (order.append(key), put(key, *rest))[1]
    publish(blobs, FOLDER, manifest(data), staged_key="temp/x")
    assert order == [FOLDER.weights_key, FOLDER.manifest_key]
    assert FOLDER.prefix == "tenants/alice/loras/-/imp_1/v2/"
    assert blobs.get(FOLDER.weights_key) == data
    assert read_manifest(blobs, FOLDER) == manifest(data)


def test_a_folder_without_a_readable_manifest_says_so() -> None:
    blobs = MemoryBlobs()
    with pytest.raises(BlobNotFound):
        read_manifest(blobs, FOLDER)
    blobs.put(FOLDER.manifest_key, b'{"name": "x"}', "application/json")
    with pytest.raises(BlobError, match="not a manifest"):
        read_manifest(blobs, FOLDER)


def test_removing_takes_everything_and_may_be_repeated() -> None:
    blobs, data = MemoryBlobs(), lora_bytes()
    blobs.put("temp/x", data, "application/octet-stream")
    publish(blobs, FOLDER, manifest(data), staged_key="temp/x")
    blobs.put(FOLDER.kohya_key, data, "application/octet-stream")
    remove(blobs, FOLDER)
    remove(blobs, FOLDER)
    assert blobs.keys == ["temp/x"]


def test_peft_keys_become_kohyas_and_no_weight_changes(tmp_path: Path) -> None:
    data = lora_bytes(metadata={"ss_tag": "x"})
    loaded, _ = exported(tmp_path, data)
    tensors = peft_tensors()
    attention = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to"
    names = (f"{attention}_q", f"{attention}_out_0", "lora_te_text_model_encoder_layers_0_self_attn_q_proj")
    assert len(loaded) == 3 * len(names)
    for module, name in zip(MODULES, names, strict=True):
        assert (loaded[f"{name}.lora_down.weight"] == tensors[f"{module}.lora_A.weight"]).all()
        assert (loaded[f"{name}.lora_up.weight"] == tensors[f"{module}.lora_B.weight"]).all()
        assert loaded[f"{name}.alpha"] == 4.0  # no alpha said: a scale of one


@pytest.mark.parametrize(
    ("settings", "alpha"),
    [
        ({"unet.lora_alpha": 8, "unet.r": 4}, 8.0),
        ({"unet.lora_alpha": 8, "unet.use_rslora": True}, 16.0),  # 8 / sqrt(4) = 16 / 4
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 2}}, 2.0),
        ({"text_encoder.lora_alpha": 8}, 4.0),
    ],
)
def test_the_alpha_is_the_one_that_peft_wrote_down(tmp_path: Path, settings: dict[str, Any], alpha: float) -> None:
    data = lora_bytes(metadata={"lora_adapter_metadata": json.dumps(settings)})
    loaded, blobs = exported(tmp_path, data)
    assert loaded["lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.alpha"] == alpha
    assert b"lora_adapter_metadata" not in blobs.get(FOLDER.kohya_key)


@pytest.mark.parametrize("text", ["[", "[]", '{"unet.lora_alpha": "x"}', '{"unet.lora_alpha": true}'])
def test_broken_peft_settings_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(AdapterError, match="lora_adapter_metadata"):
        exported(tmp_path, lora_bytes(metadata={"lora_adapter_metadata": text}))


@pytest.mark.parametrize(
    ("module", "ending", "family", "name"),
    [
        ("text_encoder.encoder.layers.0.mlp.fc1", PEFT, "sdxl", "te1_text_model_encoder_layers_0_mlp_fc1"),
        ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1", PEFT, "sdxl", "te2_text_model_encoder_layers_0_mlp_fc1"),
        ("text_encoder_2.text_projection", PEFT, "sdxl", "te2_text_projection"),
        ("text_encoder.text_model.layers.0.self_attn.to_out", OLD, "sd", "te_text_model_layers_0_self_attn_out_proj"),
        ("unet.mid_block.attn2.processor.to_out", OLD, "sd", "unet_mid_block_attn2_to_out_0"),
        ("diffusion_model.middle_block.1.proj_in", PEFT, "sdxl", "unet_middle_block_1_proj_in"),
    ],
)
def test_each_part_of_a_model_gets_its_prefix(tmp_path: Path, module: str, ending: str, family: str, name: str) -> None:
    up = ending.replace("A", "B").replace("down", "up")
    tensors = {module + ending: np.zeros((2, 8), np.float32), module + up: np.zeros((8, 2), np.float32)}
    loaded, _ = exported(tmp_path, lora_bytes(tensors), family=family)
    assert set(loaded) == {f"lora_{name}.{part}" for part in ("lora_down.weight", "lora_up.weight", "alpha")}


def test_a_file_with_alphas_of_its_own_keeps_them(tmp_path: Path) -> None:
    tensors = peft_tensors() | {f"{MODULES[0]}.alpha": np.array(3.0, np.float16)}
    loaded, _ = exported(tmp_path, lora_bytes(tensors))
    assert loaded["lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.alpha"] == 3.0


def test_what_came_as_kohya_is_given_as_it_came(tmp_path: Path) -> None:
    data = lora_bytes(kohya_tensors())
    _, blobs = exported(tmp_path, data, naming="kohya", family="flux")
    assert blobs.keys == sorted([FOLDER.weights_key, FOLDER.manifest_key, "temp/x"])


def test_flux_and_keys_that_name_no_part_of_a_model_have_no_kohya_form(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="flux"):
        exported(tmp_path, lora_bytes(), family="flux")
    tensors = {"a.lora_A.weight": np.zeros((2, 8), np.float32), "a.lora_B.weight": np.zeros((8, 2), np.float32)}
    with pytest.raises(AdapterError, match="'a' does not say which part"):
        exported(tmp_path, lora_bytes(tensors), naming="other")


def test_the_kohya_form_is_made_once_and_never_from_other_bytes(tmp_path: Path) -> None:
    data = lora_bytes()
    _, blobs = exported(tmp_path, data)
    blobs.delete(FOLDER.weights_key)
    assert ensure_kohya(blobs, FOLDER, manifest(data), scratch=tmp_path) == FOLDER.kohya_key
    blobs.delete(FOLDER.kohya_key)
    blobs.put(FOLDER.weights_key, lora_bytes(seed=1), "application/octet-stream")
    with pytest.raises(BlobError, match="not the ones that were published"):
        ensure_kohya(blobs, FOLDER, manifest(data), scratch=tmp_path)
