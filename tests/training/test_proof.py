"""A file is proven, or refused with the reason: whatever is spoilt in it is noticed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from models.spec import Family
from tests.models.tiny import tiny_spec
from tests.training.adapters import SIZE, WISHES, learned, pictures_of, written
from training.learners.adapted import AdaptedLearner
from training.proof import Proof, ProofError, prove

Folders = dict[Family, Path]
Spoil = Callable[[dict[str, torch.Tensor], dict[str, str]], None]
QUERY = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def proof_of(learner: AdaptedLearner, family: Family, file: Path) -> Proof:
    pictures = pictures_of(learner, family)
    return prove(learner.pipeline, file, tiny_spec(family), wishes=WISHES, pictures=pictures, **SIZE)


def is_the_same(proof: Proof) -> bool:
    """But for rounding, which on a CPU may depend on where in memory a tensor lies."""
    return proof.mean_difference < 1e-3 and proof.max_difference <= 1


def spoilt(path: Path, spoil: Spoil) -> Path:
    """The file again, with one thing wrong."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    spoil(tensors, metadata)
    save_file(tensors, path, metadata=metadata)
    return path


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux"])
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_a_file_as_it_was_written_is_proven(family: Family, dora: bool, tiny_folders: Folders, tmp_path: Path) -> None:
    learner = learned(tiny_folders[family], family, text_encoder=True, dora=dora)
    proof = proof_of(learner, family, written(learner, family, tmp_path / "a.safetensors"))
    assert (proof.num_tensors, proof.num_pictures) == (len(learner.state()), len(WISHES))
    assert is_the_same(proof)


def test_in_half_precision_the_pictures_are_those_that_a_server_makes(tiny_folders: Folders, tmp_path: Path) -> None:
    layers = {"text_encoder": True, "targets": ["attention", "convolutions"]}
    learner = learned(tiny_folders["sd"], "sd", dtype=torch.bfloat16, **layers)
    before = learner.state()
    proof = proof_of(learner, "sd", written(learner, "sd", tmp_path / "a.safetensors"))
    assert is_the_same(proof)
    # What is trained on is exact again.
    assert {parameter.dtype for parameter in learner.trainable().values()} == {torch.float32}
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.state().items())


def test_proving_leaves_the_adapter_on_the_pipeline(tiny_folders: Folders, tmp_path: Path) -> None:
    learner = learned(tiny_folders["sd"], "sd")
    before = [picture.tobytes() for picture in pictures_of(learner, "sd")]
    proof_of(learner, "sd", written(learner, "sd", tmp_path / "a.safetensors"))
    assert [picture.tobytes() for picture in pictures_of(learner, "sd")] == before


def rename_to_nowhere(tensors: dict[str, torch.Tensor], _metadata: dict[str, str]) -> None:
    for half in ("lora_A", "lora_B"):
        tensors[f"unet.mid_block.nowhere.{half}.weight"] = tensors.pop(f"{QUERY}.{half}.weight")


def rename_to_another_layer(tensors: dict[str, torch.Tensor], _metadata: dict[str, str]) -> None:
    # A 1 × 1 convolution of the same sides, which this LoRA does not adapt.
    for half in ("lora_A", "lora_B"):
        key = f"{QUERY}.{half}.weight"
        tensors[key.replace("transformer_blocks.0.attn1.to_q", "proj_in")] = tensors.pop(key)[..., None, None]


def swap_two_layers(tensors: dict[str, torch.Tensor], _metadata: dict[str, str]) -> None:
    ours, theirs = f"{QUERY}.lora_B.weight", f"{QUERY.replace('to_q', 'to_k')}.lora_B.weight"
    tensors[ours], tensors[theirs] = tensors[theirs], tensors[ours]


def leave_a_layer_out(tensors: dict[str, torch.Tensor], _metadata: dict[str, str]) -> None:
    for half in ("lora_A", "lora_B"):
        del tensors[f"{QUERY}.{half}.weight"]


def leave_half_a_layer_out(tensors: dict[str, torch.Tensor], _metadata: dict[str, str]) -> None:
    del tensors[f"{QUERY}.lora_B.weight"]


def change_a_tensor(tensors: dict[str, torch.Tensor], _metadata: dict[str, str]) -> None:
    tensors[f"{QUERY}.lora_B.weight"][0, 0] += 1e-3


def lose_the_alpha(_tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    del metadata["lora_adapter_metadata"]


def change_the_alpha(_tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    settings = json.loads(metadata["lora_adapter_metadata"]) | {"unet.lora_alpha": 4}
    metadata["lora_adapter_metadata"] = json.dumps(settings)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (rename_to_nowhere, "cannot be loaded.*nowhere"),
        (rename_to_another_layer, "missing"),
        (swap_two_layers, "values that were trained"),
        (leave_a_layer_out, "missing"),
        (leave_half_a_layer_out, "cannot be loaded"),
        (change_a_tensor, "values that were trained"),
        (lose_the_alpha, "other pictures"),
        (change_the_alpha, "other pictures"),
    ],
)
def test_a_spoilt_file_is_refused_with_its_reason(
    spoil: Spoil, reason: str, tiny_folders: Folders, tmp_path: Path
) -> None:
    learner = learned(tiny_folders["sd"], "sd")
    path = spoilt(written(learner, "sd", tmp_path / "a.safetensors"), spoil)
    with pytest.raises(ProofError, match=reason):
        proof_of(learner, "sd", path)


def test_what_is_no_safetensors_file_is_refused(tiny_folders: Folders, tmp_path: Path) -> None:
    learner = learned(tiny_folders["sd"], "sd")
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ProofError, match="cannot be loaded"):
        proof_of(learner, "sd", path)


def test_pictures_that_the_adapter_did_not_make_are_no_proof(tiny_folders: Folders, tmp_path: Path) -> None:
    learner = learned(tiny_folders["sd"], "sd")
    path = written(learner, "sd", tmp_path / "a.safetensors")
    with pytest.raises(ProofError, match="other pictures"):
        prove(
            learner.pipeline,
            path,
            tiny_spec("sd"),
            wishes=WISHES,
            pictures=pictures_of(learner, "sd")[::-1],
            **SIZE,
        )
