"""What each family's files may call its modules, and which of them take no adapter."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.errors import AdapterError
from models.loader import PIPELINES
from models.lora_files import read_lora


def write(path: Path, name: str, inputs: int, outputs: int) -> Path:
    save_file(
        {f"{name}.lora_down.weight": torch.ones(2, inputs), f"{name}.lora_up.weight": torch.ones(outputs, 2)}, path
    )
    return path


@pytest.mark.parametrize(
    "name",
    [
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
        "text_encoder_3.encoder.block.0.layer.0.SelfAttention.q",
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q",
    ],
)
def test_sd3s_third_encoder_is_t5(name: str, tiny_sd3: Path, tmp_path: Path) -> None:
    pipeline = PIPELINES["sd3"].from_pretrained(str(tiny_sd3))
    weights = read_lora(write(tmp_path / "a.safetensors", name, 72, 32), pipeline, "sd3")
    assert weights.layers.keys() == {"text_encoder_3.encoder.block.0.layer.0.SelfAttention.q"}


@pytest.mark.parametrize(("name", "inputs"), [("cap_embedder.1", 32), ("all_x_embedder.2-1", 64)])
def test_modules_that_see_all_rows_as_one_take_no_adapter(
    name: str, inputs: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    pipeline = PIPELINES["z-image"].from_pretrained(str(request.getfixturevalue("tiny_z-image")))
    with pytest.raises(AdapterError, match=f"'transformer.{name}.lora_down.weight' matches no module"):
        read_lora(write(tmp_path / "a.safetensors", f"transformer.{name}", inputs, 32), pipeline, "z-image")
