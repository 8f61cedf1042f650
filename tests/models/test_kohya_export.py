"""A file that diffusers wrote and its kohya export are the same adapter: to the engine's reader, and to diffusers."""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict

from models.adapters import check_file
from models.kohya_export import write_kohya
from models.lora_files.reading import read_lora
from models.spec import Family

DENOISER = LoraConfig(r=4, lora_alpha=10, target_modules=["to_q", "to_out.0", "proj_in", "conv1"])
TEXT = LoraConfig(r=2, lora_alpha=8, use_rslora=True, target_modules=["q_proj", "out_proj", "fc1"])


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
def folder(request: pytest.FixtureRequest, family: Family) -> Path:
    return request.getfixturevalue(f"tiny_{family}")


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
