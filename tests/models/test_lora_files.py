"""Every naming gives the same layers, alpha is honoured, and what does not fit is refused by its name."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.errors import AdapterError
from models.loader import PIPELINES
from models.lora_files import LoraWeights, read_lora
from models.spec import Family
from tests.models.tiny_loras import Format, Targets, make_lora

QUERY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"  # 16 → 16 in the tiny UNet
NUM_LAYERS: dict[Family, dict[Targets, int]] = {
    "sd": {"attention": 32, "all": 95},
    "sdxl": {"attention": 32, "all": 109},
    "flux": {"attention": 11, "all": 42},
    "sd3": {"attention": 19, "all": 61},
    "z-image": {"attention": 12, "all": 27},
    "qwen-image": {"attention": 8, "all": 20},
}


@pytest.fixture(scope="module")
def pipelines(request: pytest.FixtureRequest) -> dict[Family, Any]:
    return {name: PIPELINES[name].from_pretrained(str(request.getfixturevalue(f"tiny_{name}"))) for name in PIPELINES}


@pytest.fixture
def sd(pipelines: dict[Family, Any]) -> Any:
    return pipelines["sd"]


def write(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, object] | None = None) -> Path:
    save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps(header)} if header is not None else None)
    return path


def pair(inputs: int = 16, outputs: int = 16, rank: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rank, inputs), torch.randn(outputs, rank)


def peft(name: str, down: torch.Tensor, up: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}


def delta(weights: LoraWeights, name: str) -> torch.Tensor:
    layer = weights.layers[name]
    return layer.up.flatten(1) @ layer.down.flatten(1)


def assert_same(one: LoraWeights, other: LoraWeights) -> None:
    assert one.layers.keys() == other.layers.keys()
    for name in one.layers:
        torch.testing.assert_close(delta(one, name), delta(other, name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("targets", ["attention", "all"])
@pytest.mark.parametrize("format", ["kohya", "comfy"])
@pytest.mark.parametrize("family", list(PIPELINES))
def test_every_format_gives_the_same_layers(
    family: Family, format: Format, targets: Targets, pipelines: dict[Family, Any], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"rank": 4, "alpha": 3.0, "targets": targets, "seed": 5}
    ours = make_lora(tmp_path / "peft.safetensors", pipelines[family], family, format="peft", **options)
    theirs = make_lora(tmp_path / "other.safetensors", pipelines[family], family, format=format, **options)
    weights = read_lora(theirs, pipelines[family], family)
    assert_same(weights, read_lora(ours, pipelines[family], family))
    assert len(weights.layers) == NUM_LAYERS[family][targets]
    assert weights.max_rank == 4
    assert weights.num_bytes == sum(4 * (x.down.numel() + x.up.numel()) for x in weights.layers.values())


def test_layers_have_the_shapes_of_their_modules(sd: Any, tmp_path: Path) -> None:
    weights = read_lora(make_lora(tmp_path / "a.safetensors", sd, "sd", targets="all"), sd, "sd")
    conv = weights.layers["unet.conv_in"]
    assert (tuple(conv.down.shape), tuple(conv.up.shape)) == ((4, 4, 3, 3), (8, 4, 1, 1))
    linear = weights.layers["text_encoder.encoder.layers.1.mlp.fc2"]
    assert (tuple(linear.down.shape), tuple(linear.up.shape)) == ((4, 37), (32, 4))


@pytest.mark.parametrize(
    "name",
    [
        f"unet.{QUERY}",
        f"base_model.model.{QUERY}",
        QUERY,
        f"diffusion_model.{QUERY}",
        "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q",
        "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q",
        f"lora_unet_{QUERY.replace('.', '_')}",
    ],
)
def test_one_module_is_known_by_many_names(name: str, sd: Any, tmp_path: Path) -> None:
    down, up = pair()
    path = write(tmp_path / "a.safetensors", peft(name, down, up))
    torch.testing.assert_close(delta(read_lora(path, sd, "sd"), f"unet.{QUERY}"), up @ down)


@pytest.mark.parametrize(
    ("down_key", "up_key", "module"),
    [
        (
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.down.weight",
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.up.weight",
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
        ),
        (f"unet.{QUERY}.lora.down.weight", f"unet.{QUERY}.lora.up.weight", f"unet.{QUERY}"),
        (f"base_model.model.{QUERY}.lora_A.default.weight", f"base_model.model.{QUERY}.lora_B.default.weight", None),
        (
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight",
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight",
            "text_encoder.encoder.layers.0.self_attn.q_proj",
        ),
        (
            "text_encoder.encoder.layers.0.self_attn.to_v_lora.down.weight",
            "text_encoder.encoder.layers.0.self_attn.to_v_lora.up.weight",
            "text_encoder.encoder.layers.0.self_attn.v_proj",
        ),
    ],
)
def test_older_spellings_are_read(down_key: str, up_key: str, module: str | None, sd: Any, tmp_path: Path) -> None:
    size = 32 if down_key.startswith("text_encoder") else 16
    down, up = pair(size, size)
    weights = read_lora(write(tmp_path / "a.safetensors", {down_key: down, up_key: up}), sd, "sd")
    torch.testing.assert_close(delta(weights, module or f"unet.{QUERY}"), up @ down)


def test_both_layouts_of_clip_take_the_text_model_prefix(pipelines: dict[Family, Any], tmp_path: Path) -> None:
    # transformers 5: text_encoder has lost the level "text_model", text_encoder_2 has kept it.
    layer = "encoder.layers.0.self_attn.q_proj"
    tensors = peft(f"text_encoder.text_model.{layer}", *pair(32, 32))
    tensors |= peft(f"text_encoder_2.{layer}", *pair(32, 32))
    weights = read_lora(write(tmp_path / "a.safetensors", tensors), pipelines["sdxl"], "sdxl")
    modules = {
        name: dict(getattr(pipelines["sdxl"], name).named_modules()) for name in ("text_encoder", "text_encoder_2")
    }
    assert {name.partition(".")[0] for name in weights.layers} == modules.keys()
    assert all(name.partition(".")[2] in modules[name.partition(".")[0]] for name in weights.layers)


def test_t5_can_be_adapted(pipelines: dict[Family, Any], tmp_path: Path) -> None:
    name = "encoder.block.0.layer.0.SelfAttention.q"
    path = write(tmp_path / "a.safetensors", peft(f"text_encoders.t5xxl.transformer.{name}", *pair(32, 32)))
    assert read_lora(path, pipelines["flux"], "flux").layers.keys() == {f"text_encoder_2.{name}"}


def test_kohya_alpha_scales_the_layer(sd: Any, tmp_path: Path) -> None:
    down, up = pair(rank=8)
    name = f"lora_unet_{QUERY.replace('.', '_')}"
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    plain = read_lora(write(tmp_path / "a.safetensors", tensors), sd, "sd")
    torch.testing.assert_close(delta(plain, f"unet.{QUERY}"), up @ down)
    scaled = read_lora(write(tmp_path / "b.safetensors", tensors | {f"{name}.alpha": torch.tensor(2.0)}), sd, "sd")
    torch.testing.assert_close(delta(scaled, f"unet.{QUERY}"), up @ down / 4)


@pytest.mark.parametrize(
    ("header", "scale"),
    [
        ({"unet.lora_alpha": 8}, 2.0),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {QUERY: 1}}, 0.25),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 2}}, 0.5),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_k": 2}}, 2.0),
        ({"unet.lora_alpha": 8, "unet.use_rslora": True}, 4.0),
        ({"text_encoder.lora_alpha": 8}, 1.0),
    ],
)
def test_alpha_in_the_header_scales_the_layer(header: dict[str, object], scale: float, sd: Any, tmp_path: Path) -> None:
    down, up = pair(rank=4)
    weights = read_lora(write(tmp_path / "a.safetensors", peft(f"unet.{QUERY}", down, up), header), sd, "sd")
    torch.testing.assert_close(delta(weights, f"unet.{QUERY}"), up @ down * scale)


def test_a_fused_matrix_is_split_among_its_modules(pipelines: dict[Family, Any], tmp_path: Path) -> None:
    down, up = pair(32, 3 * 32 + 128, rank=4)
    path = write(tmp_path / "a.safetensors", peft("diffusion_model.single_blocks.0.linear1", down, up))
    weights = read_lora(path, pipelines["flux"], "flux")
    block = "transformer.single_transformer_blocks.0"
    names = [*(f"{block}.attn.to_{letter}" for letter in "qkv"), f"{block}.proj_mlp"]
    assert list(weights.layers) == names
    torch.testing.assert_close(torch.cat([delta(weights, name) for name in names]), up @ down)


def test_half_precision_is_widened_before_alpha_is_applied(sd: Any, tmp_path: Path) -> None:
    down, up = (tensor.half() for tensor in pair(rank=3))
    tensors = peft(f"unet.{QUERY}", down, up) | {f"unet.{QUERY}.alpha": torch.tensor(1.0)}
    layer = read_lora(write(tmp_path / "a.safetensors", tensors), sd, "sd").layers[f"unet.{QUERY}"]
    assert layer.down.dtype == layer.up.dtype == torch.float32
    assert torch.equal(layer.up, up.float() * (1 / 3))


def test_a_matrix_fits_a_one_by_one_convolution_and_the_other_way_round(sd: Any, tmp_path: Path) -> None:
    conv, linear = "unet.mid_block.attentions.0.proj_in", f"unet.{QUERY}"
    down, up = pair()
    tensors = peft(conv, down, up) | peft(linear, down[:, :, None, None].clone(), up[:, :, None, None].clone())
    weights = read_lora(write(tmp_path / "a.safetensors", tensors), sd, "sd")
    assert tuple(weights.layers[conv].down.shape) == (4, 16, 1, 1)
    assert tuple(weights.layers[linear].up.shape) == (16, 4)


def test_a_key_that_matches_nothing_is_named_and_the_others_are_counted(sd: Any, tmp_path: Path) -> None:
    path = make_lora(tmp_path / "a.safetensors", sd, "sd", format="kohya")
    tensors = load_file(path)
    for number in range(3):
        tensors[f"lora_unet_nonsense_{number}.lora_down.weight"] = torch.ones(1, 1)
    message = r"'lora_unet_nonsense_0.lora_down.weight' matches no module .* be adapted; 2 more of its keys are refused"
    with pytest.raises(AdapterError, match=message):
        read_lora(write(path, tensors), sd, "sd")


@pytest.mark.parametrize(("made_for", "read_for"), [("flux", "sd"), ("sd", "flux"), ("sdxl", "sd"), ("sd", "sdxl")])
def test_an_adapter_of_another_family_is_refused(
    made_for: Family, read_for: Family, pipelines: dict[Family, Any], tmp_path: Path
) -> None:
    path = make_lora(tmp_path / "a.safetensors", pipelines[made_for], made_for, format="peft")
    key = next(iter(sorted(load_file(path)))).split(".")[0]
    with pytest.raises(AdapterError, match=f"does not fit this model: '{key}"):
        read_lora(path, pipelines[read_for], read_for)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            {"lora_A.weight": torch.randn(4, 17)},
            r"to_q.lora_A.weight' has shape \[4, 17\], but the module takes \[16\]",
        ),
        ({"lora_B.weight": torch.randn(15, 4)}, r"to_q.lora_B.weight' has shape \[15, 4\], but should have \[16, 4\]"),
        ({"lora_B.weight": torch.randn(16, 5)}, r"to_q.lora_B.weight' has shape \[16, 5\], but should have \[16, 4\]"),
        ({"lora_A.weight": torch.randn(4, 16, 3, 3)}, r"has shape \[4, 16, 3, 3\], but the module takes \[16\]"),
        ({"lora_A.weight": torch.randn(0, 16)}, "to_q.lora_A.weight' has rank 0"),
        ({"lora_A.weight": torch.tensor(1.0)}, "to_q.lora_A.weight' has rank 0"),
        ({"lora_B.weight": torch.full((16, 4), torch.nan)}, "to_q.lora_B.weight' holds numbers that are not finite"),
        ({"lora_A.weight": torch.full((4, 16), torch.inf)}, "to_q.lora_A.weight' holds numbers that are not finite"),
        ({"lora_A.weight": torch.ones(4, 16, dtype=torch.int8)}, "to_q.lora_A.weight' holds int8, not real numbers"),
        ({"alpha": torch.tensor(torch.nan)}, "to_q.alpha' holds numbers that are not finite"),
        ({"alpha": torch.ones(2)}, "to_q.alpha' is not one number"),
        ({"dora_scale": torch.ones(1, 16)}, r"dora_scale' has shape \[1, 16\], but only a magnitude for each of 16"),
        ({"lora_magnitude_vector": torch.ones(1)}, r"magnitude_vector' has shape \[1\], but only a magnitude"),
        ({"hada_w1_a": torch.ones(1)}, "to_q.hada_w1_a' belongs to LoHa, which is not supported"),
        ({"lokr_w1": torch.ones(1)}, "to_q.lokr_w1' belongs to LoKr, which is not supported"),
        ({"lora_mid.weight": torch.ones(1)}, "to_q.lora_mid.weight' belongs to a Tucker decomposition"),
        ({"lora_B.bias": torch.ones(1)}, "to_q.lora_B.bias' belongs to a LoRA with biases"),
        ({"weight": torch.ones(1)}, "to_q.weight' is no part of a LoRA"),
        ({"lora_down.weight": torch.ones(4, 16)}, "to_q.lora_down.weight' says the same as 'unet.*to_q.lora_A.weight'"),
    ],
)
def test_what_cannot_be_used_is_named(spoil: dict[str, torch.Tensor], message: str, sd: Any, tmp_path: Path) -> None:
    tensors = peft(f"unet.{QUERY}", *pair()) | {f"unet.{QUERY}.{suffix}": tensor for suffix, tensor in spoil.items()}
    with pytest.raises(AdapterError, match=message):
        read_lora(write(tmp_path / "a.safetensors", tensors), sd, "sd")


def test_half_a_layer_is_refused(sd: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", {f"unet.{QUERY}.lora_A.weight": torch.ones(4, 16)})
    with pytest.raises(AdapterError, match="to_q.lora_A.weight' stands alone: its up is missing"):
        read_lora(path, sd, "sd")


def test_a_module_named_twice_in_different_dialects_is_refused(pipelines: dict[Family, Any], tmp_path: Path) -> None:
    tensors = peft("diffusion_model.double_blocks.0.img_attn.qkv", *pair(32, 96))
    tensors |= peft("transformer.transformer_blocks.0.attn.to_k", *pair(32, 32))
    with pytest.raises(AdapterError, match="'transformer.*to_k.lora_A.weight' adapts a module that another key adapts"):
        read_lora(write(tmp_path / "a.safetensors", tensors), pipelines["flux"], "flux")


def test_only_safetensors_with_layers_is_read(sd: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps({f"unet.{QUERY}.lora_A.weight": 1}))
    with pytest.raises(AdapterError, match="not a safetensors file"):
        read_lora(path, sd, "sd")
    with pytest.raises(AdapterError, match="not a safetensors file"):
        read_lora(tmp_path / "missing.safetensors", sd, "sd")
    with pytest.raises(AdapterError, match="no LoRA layers"):
        read_lora(write(path, {}), sd, "sd")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not an object"),
        ('{"unet.use_dora": true}', "to_q.lora_A.weight' belongs to a DoRA, but has no magnitude"),
        ('{"unet.lora_alpha": "many"}', "alpha of unet.*to_q is not a number"),
        ('{"unet.lora_alpha": Infinity}', "alpha of unet.*to_q is not a number"),
        ('{"unet.alpha_pattern": [1]}', "alpha of unet.*to_q is not a number"),
    ],
)
def test_a_damaged_header_is_refused(header: str, message: str, sd: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(peft(f"unet.{QUERY}", *pair()), path, metadata={"lora_adapter_metadata": header})
    with pytest.raises(AdapterError, match=message):
        read_lora(path, sd, "sd")
