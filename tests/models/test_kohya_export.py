"""A file that diffusers wrote and its kohya export are the same adapter: to the engine's reader, and to diffusers.

kohya's rules (sd-scripts, networks/lora.py): a layer is called after its module's path, "_" for ".", behind
`lora_unet_`, and `lora_te_` in SD 1.x or `lora_te1_` and `lora_te2_` in SDXL, whose UNet is Stability's there and not
diffusers'. It has `lora_down.weight`, `lora_up.weight` and the number `alpha`; what it adds is
alpha / rank · up · down, the rank being the first side of `lora_down`.
"""

import math
import re
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from models.adapters import check_file
from models.errors import AdapterError
from models.kohya_export import write_kohya
from models.lora_files.reading import read_lora
from models.spec import Family

DENOISER = LoraConfig(
    r=4,
    lora_alpha=10,
    target_modules=["to_q", "to_out.0", "proj_in", "conv1", "conv_shortcut", "time_emb_proj", "conv_in", "conv"],
)
TEXT = LoraConfig(r=2, lora_alpha=8, use_rslora=True, target_modules=["q_proj", "out_proj", "fc1"])
KEY = re.compile(r"(lora_unet|lora_te[12]?)_([a-z0-9_]+)\.(lora_down\.weight|lora_up\.weight|alpha)")
# Diffusers' modules and what kohya calls them; SDXL's blocks are counted as in Stability's openaimodel.py.
UNET_NAMES: dict[Family, dict[str, str]] = {
    "sd": {
        "conv_in": "conv_in",
        "down_blocks.0.resnets.0.conv1": "down_blocks_0_resnets_0_conv1",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0": (
            "down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0"
        ),
        "mid_block.attentions.0.proj_in": "mid_block_attentions_0_proj_in",
        "up_blocks.0.upsamplers.0.conv": "up_blocks_0_upsamplers_0_conv",
    },
    "sdxl": {
        "conv_in": "input_blocks_0_0",
        "down_blocks.0.resnets.0.conv1": "input_blocks_1_0_in_layers_2",
        "down_blocks.0.resnets.1.time_emb_proj": "input_blocks_2_0_emb_layers_1",
        "down_blocks.0.downsamplers.0.conv": "input_blocks_3_0_op",
        "down_blocks.1.resnets.0.conv_shortcut": "input_blocks_4_0_skip_connection",
        "down_blocks.1.attentions.0.proj_in": "input_blocks_4_1_proj_in",
        "down_blocks.2.attentions.1.transformer_blocks.0.attn1.to_q": (
            "input_blocks_8_1_transformer_blocks_0_attn1_to_q"
        ),
        "mid_block.resnets.0.conv1": "middle_block_0_in_layers_2",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0": (
            "middle_block_1_transformer_blocks_0_attn2_to_out_0"
        ),
        "mid_block.resnets.1.conv1": "middle_block_2_in_layers_2",
        "up_blocks.0.resnets.0.conv1": "output_blocks_0_0_in_layers_2",
        "up_blocks.0.upsamplers.0.conv": "output_blocks_2_2_conv",
        "up_blocks.1.attentions.2.proj_in": "output_blocks_5_1_proj_in",
        "up_blocks.1.upsamplers.0.conv": "output_blocks_5_2_conv",
        "up_blocks.2.resnets.2.conv_shortcut": "output_blocks_8_0_skip_connection",
    },
}
TEXT_NAMES: dict[Family, dict[str, str]] = {
    "sd": {"text_encoder": "lora_te_text_model_"},
    "sdxl": {"text_encoder": "lora_te1_text_model_", "text_encoder_2": "lora_te2_text_model_"},
}


def save_adapter(folder: Path, target: Path, *, with_text: bool) -> Path:
    """A random adapter as diffusers' own training scripts save it, peft's settings included."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    parts = {"unet": (pipeline.unet, DENOISER)}
    if with_text:
        names = [name for name in ("text_encoder", "text_encoder_2") if name in pipeline.components]
        parts |= {name: (getattr(pipeline, name), TEXT) for name in names}
    layers = {}
    torch.manual_seed(0)
    for name, (module, config) in parts.items():
        module.add_adapter(config)
        for parameter_name, parameter in module.named_parameters():
            if "lora_B" in parameter_name:
                torch.nn.init.normal_(parameter, std=0.05)
        layers[f"{name}_lora_layers"] = get_peft_model_state_dict(module)
        layers[f"{name}_lora_adapter_metadata"] = config.to_dict()
    pipeline.save_lora_weights(target, **layers)
    return target / "pytorch_lora_weights.safetensors"


@pytest.fixture(params=["sd", "sdxl"])
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture
def folder(request: pytest.FixtureRequest, family: Family, tmp_path: Path) -> Path:
    folder: Path = request.getfixturevalue(f"tiny_{family}")
    return folder if family == "sd" else with_blocks_of_sdxl(folder, tmp_path / "sdxl")


def with_blocks_of_sdxl(folder: Path, target: Path) -> Path:
    """The tiny model with as many blocks as SDXL has, which its names count."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    torch.manual_seed(0)
    blocks = {
        "block_out_channels": (8, 16, 24),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (2, 4, 4),
    }
    pipeline.unet = UNet2DConditionModel.from_config({**pipeline.unet.config, **blocks}).eval()
    pipeline.save_pretrained(target)
    return target


def test_keys_and_alphas_are_those_that_kohya_expects(folder: Path, family: Family, tmp_path: Path) -> None:
    source, target = save_adapter(folder, tmp_path, with_text=True), tmp_path / "kohya.safetensors"
    write_kohya(source, target, family)
    tensors, layers = load_file(target), read_lora(source, DiffusionPipeline.from_pretrained(folder), family).layers
    matches = [KEY.fullmatch(key) for key in tensors]
    assert all(matches)
    names = {f"{match[1]}_{match[2]}" for match in matches if match}
    # Three tensors for each layer, and no layer lost.
    assert len(tensors) == 3 * len(names) == 3 * len(layers)
    for name in names:
        down, up, alpha = (tensors[f"{name}.{part}"] for part in ("lora_down.weight", "lora_up.weight", "alpha"))
        is_text = name.startswith("lora_te")
        assert (alpha.shape, alpha.is_floating_point()) == ((), True)
        # Rank-stabilised: alpha / √rank, told as alpha / rank.
        assert float(alpha) == pytest.approx(8 * math.sqrt(2) if is_text else 10)
        assert down.shape[0] == up.shape[1] == (2 if is_text else 4)
        assert down.ndim == up.ndim and set(up.shape[2:]) <= {1}
    assert {f"lora_unet_{name}" for name in UNET_NAMES[family].values()} <= names
    assert {name for name in names if name.startswith("lora_te")} == {
        f"{prefix}encoder_layers_{layer}_{module}"
        for prefix in TEXT_NAMES[family].values()
        for layer in (0, 1)
        for module in ("self_attn_q_proj", "self_attn_out_proj", "mlp_fc1")
    }


def test_each_layer_keeps_its_matrices_under_its_name(folder: Path, family: Family, tmp_path: Path) -> None:
    source, target = save_adapter(folder, tmp_path, with_text=False), tmp_path / "kohya.safetensors"
    write_kohya(source, target, family)
    theirs = load_file(target)
    ours = {key.replace(".lora.down.", ".lora_A."): tensor for key, tensor in load_file(source).items()}
    for module, name in UNET_NAMES[family].items():
        assert torch.equal(theirs[f"lora_unet_{name}.lora_down.weight"], ours[f"unet.{module}.lora_A.weight"])


def test_the_engine_reads_the_same_layers_from_both(folder: Path, family: Family, tmp_path: Path) -> None:
    source, target = save_adapter(folder, tmp_path, with_text=True), tmp_path / "kohya.safetensors"
    write_kohya(source, target, family)
    assert (check_file(source), check_file(target)) == ("diffusers", "kohya")
    pipeline = DiffusionPipeline.from_pretrained(folder)
    before, after = (read_lora(path, pipeline, family).layers for path in (source, target))
    assert before.keys() == after.keys()
    assert {name.partition(".")[0] for name in before} >= {"unet", "text_encoder"}
    for name, layer in before.items():
        torch.testing.assert_close(after[name].down, layer.down, rtol=0, atol=0)
        torch.testing.assert_close(after[name].up, layer.up, rtol=1e-6, atol=1e-7)


def test_diffusers_makes_the_same_picture_with_both(folder: Path, family: Family, tmp_path: Path) -> None:
    # The denoiser alone: diffusers 0.42 does not find kohya's text layers in the encoders of transformers 5.
    source, target = save_adapter(folder, tmp_path, with_text=False), tmp_path / "kohya.safetensors"
    write_kohya(source, target, family)

    def picture(path: Path | None) -> torch.Tensor:
        pipeline = DiffusionPipeline.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        if path is not None:
            pipeline.load_lora_weights(path.parent, weight_name=path.name)
        seed = torch.Generator().manual_seed(1)
        made = pipeline("a cat", num_inference_steps=2, width=64, height=64, generator=seed, output_type="np")
        return torch.from_numpy(made.images)

    before, after, without = picture(source), picture(target), picture(None)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    assert (before - without).abs().max() > 1e-3


def test_a_dora_is_refused_since_no_reader_of_kohyas_keys_would_make_the_same_of_it(tmp_path: Path) -> None:
    name = "unet.mid_block.attentions.0.proj_in"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, 16), f"{name}.lora_B.weight": torch.ones(16, 2)}
    save_file(tensors | {f"{name}.lora_magnitude_vector": torch.ones(16)}, tmp_path / "dora.safetensors")
    assert check_file(tmp_path / "dora.safetensors") == "diffusers"
    with pytest.raises(AdapterError, match="A DoRA has no kohya naming"):
        write_kohya(tmp_path / "dora.safetensors", tmp_path / "kohya.safetensors", "sd")


def test_a_layer_that_sdxl_does_not_have_is_refused(tmp_path: Path) -> None:
    name = "unet.down_blocks.3.resnets.0.conv1"
    save_file(
        {f"{name}.lora_A.weight": torch.ones(2, 16), f"{name}.lora_B.weight": torch.ones(16, 2)}, tmp_path / "a.st"
    )
    with pytest.raises(AdapterError, match="SDXL's UNet has no layer 'unet.down_blocks.3.resnets.0.conv1'"):
        write_kohya(tmp_path / "a.st", tmp_path / "kohya.safetensors", "sdxl")
