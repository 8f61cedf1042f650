"""DoRAs in a batch: each row equals what peft makes of its adapters alone, in their order and at their scales."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from models.errors import AdapterError
from models.loader import PIPELINES
from models.lora_files import read_lora
from models.spec import Family
from tests.models.forwards import denoise, denoiser_inputs, encode
from tests.models.test_lora import TOLERANCE, Recipe, Setup, assert_rows_equal_diffusers, bank_for
from tests.models.tiny_loras import ENCODER_PREFIXES, make_lora

# Adapter 0 is a DoRA of the attention, 1 a LoRA and 2 a DoRA of everything.
RECIPES: list[Recipe] = [
    ((0, 1.0),),
    (),
    ((1, 0.8),),
    ((0, 0.7), (1, 0.5)),
    ((1, 0.5), (0, 0.7)),
    ((2, -1.0),),
    ((2, -1.0),),
    ((2, 1.3), (1, 0.6), (0, 0.4)),
    ((0, 0.0),),
    ((1, 0.0),),
]
UNTOUCHED = (1, 9)
DORAS = (0, 2)
QUERY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"  # 16 → 16 in the tiny UNet


def module_of(pipeline: Any, name: str) -> nn.Module:
    component, _, path = name.partition(".")
    modules = dict(getattr(pipeline, component).named_modules())
    return modules[path if path in modules else path.removeprefix("text_model.")]


def random_magnitude(weight: torch.Tensor) -> torch.Tensor:
    """As trained: about as long as the weights are."""
    return weight.flatten(1).norm(dim=1) * (0.7 + 0.6 * torch.rand(weight.shape[0]))


def make_dora(path: Path, pipeline: Any, family: Family, **options: Any) -> Path:
    """One of make_lora's with peft's magnitudes in it."""
    make_lora(path, pipeline, family, format="peft", **options)
    tensors = load_file(path)
    torch.manual_seed(options["seed"])
    for key in [key for key in tensors if key.endswith(".lora_A.weight")]:
        name = key.removesuffix(".lora_A.weight")
        weight = module_of(pipeline, name).weight
        magnitude = random_magnitude(weight)
        is_convolution = weight.ndim == 4
        tensors[f"{name}.lora_magnitude_vector"] = magnitude[None, :, None, None] if is_convolution else magnitude
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["lora_adapter_metadata"])
    header |= {f"{key.removesuffix('.r')}.use_dora": True for key in header if key.endswith(".r")}
    save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps(header)})
    return path


def load_into_peft(plain: Any, path: Path, name: str) -> None:
    plain.load_lora_weights(str(path), adapter_name=name)
    for key, magnitude in load_file(path).items():
        # diffusers 0.42 loses the magnitudes of text encoders, which transformers 5 loads under another name.
        if key.startswith("text_encoder") and key.endswith(".lora_magnitude_vector"):
            layer = module_of(plain, key.removesuffix(".lora_magnitude_vector"))
            layer.lora_magnitude_vector[name].weight.data.copy_(magnitude)


@pytest.fixture(scope="module", params=["sd", "sdxl", "flux"])
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return make_setup(request.param, request.getfixturevalue(f"tiny_{request.param}"), tmp_path_factory.mktemp("doras"))


@pytest.fixture(scope="module")
def sd(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return make_setup("sd", tiny_sd, tmp_path_factory.mktemp("doras"))


def make_setup(family: Family, model: Path, folder: Path) -> Setup:
    pipeline, plain = (PIPELINES[family].from_pretrained(str(model)) for _ in range(2))
    bank = bank_for(pipeline, family)
    paths, adapters = [], []
    for number, (rank, alpha, targets) in enumerate([(4, 2.0, "attention"), (8, 8.0, "all"), (6, 3.0, "all")]):
        make = make_dora if number in DORAS else make_lora
        path = make(
            folder / f"{number}.safetensors", pipeline, family, rank=rank, alpha=alpha, targets=targets, seed=number
        )
        load_into_peft(plain, path, f"a{number}")
        adapters.append(bank.acquire(str(number), lambda path=path: path))
        paths.append(path)
    return Setup(family, pipeline, plain, bank, adapters, paths)


def test_mixed_rows_of_the_denoiser_equal_diffusers_alone(setup: Setup) -> None:
    mixed = assert_rows_equal_diffusers(setup, RECIPES)
    without = denoise(setup.pipeline, setup.family, denoiser_inputs(setup.family, len(RECIPES)))
    changed = (mixed - without).abs().amax(dim=tuple(range(1, mixed.ndim)))
    assert [bool(change > 100 * TOLERANCE) for change in changed] == [
        row not in UNTOUCHED for row in range(len(RECIPES))
    ]
    assert all(torch.equal(mixed[row], without[row]) for row in UNTOUCHED)


def test_other_orders_of_rows_equal_diffusers_too(setup: Setup) -> None:
    # What was gathered for other batches is used again: another layout, other places, other scales.
    for step, recipes in enumerate((RECIPES[:3], RECIPES[2::-1], RECIPES[3:5], [((0, 0.3),), *RECIPES[5:7]])):
        assert_rows_equal_diffusers(setup, recipes, seed=step)


def test_mixed_rows_of_the_text_encoders_equal_peft_alone(setup: Setup) -> None:
    tokens = torch.randint(0, 90, (len(RECIPES), 77), generator=torch.Generator().manual_seed(0))
    for name in ENCODER_PREFIXES[setup.family]:
        with setup.bank.rows(name, setup.rows(RECIPES)):
            mixed = encode(getattr(setup.pipeline, name), tokens)
        for row, recipe in enumerate(RECIPES):
            setup.choose(recipe)
            alone = encode(getattr(setup.plain, name), tokens[row : row + 1])
            torch.testing.assert_close(mixed[row], alone[0], rtol=0, atol=TOLERANCE)


def test_only_batches_with_a_dora_multiply_what_the_model_gives(sd: Setup) -> None:
    unet = sd.bank._components["unet"]
    for recipe, num_gained in ((((1, 1.0),), 0), (((0, 1.0),), len(sd.adapters[0].components["unet"]))):
        with sd.bank.rows("unet", sd.rows([recipe, ()])):
            parts = unet._last[1].parts
            denoise(sd.pipeline, "sd", denoiser_inputs("sd", 2))
        assert [type(part).__name__ for part in parts.values()].count("GainedPart") == num_gained


def test_bfloat16_keeps_the_lengths_exact(tiny_sd: Path, sd: Setup) -> None:
    pipeline = PIPELINES["sd"].from_pretrained(str(tiny_sd), dtype=torch.bfloat16)
    bank = bank_for(pipeline, "sd")
    adapter = bank.acquire("2", lambda: sd.paths[2])
    assert (adapter.memory.dtype, adapter.lengths.dtype) == (torch.bfloat16, torch.float32)
    assert adapter.num_bytes == adapter.memory.nbytes + adapter.lengths.nbytes
    inputs = {
        name: value.bfloat16() if value.is_floating_point() else value
        for name, value in denoiser_inputs("sd", 2).items()
    }
    with bank.rows("unet", [(), ((adapter, 1.0),)]):
        mixed = denoise(pipeline, "sd", inputs)
    with sd.bank.rows("unet", sd.rows([(), ((2, 1.0),)])):
        exact = denoise(sd.pipeline, "sd", denoiser_inputs("sd", 2))
    torch.testing.assert_close(mixed.float(), exact, rtol=0.1, atol=0.1)


def test_channels_last_convolutions_are_multiplied_alike(tiny_sd: Path, sd: Setup) -> None:
    pipeline = PIPELINES["sd"].from_pretrained(str(tiny_sd))
    pipeline.unet.to(memory_format=torch.channels_last)
    bank = bank_for(pipeline, "sd")
    adapter = bank.acquire("2", lambda: sd.paths[2])
    inputs = denoiser_inputs("sd", 3)
    with sd.bank.rows("unet", sd.rows([((2, 1.0),), (), ((2, 0.5),)])):
        expected = denoise(sd.pipeline, "sd", inputs)
    inputs["sample"] = inputs["sample"].to(memory_format=torch.channels_last)
    with bank.rows("unet", [((adapter, 1.0),), (), ((adapter, 0.5),)]):
        torch.testing.assert_close(denoise(pipeline, "sd", inputs), expected, rtol=0, atol=TOLERANCE)


def gains(tensors: dict[str, torch.Tensor], path: Path, pipeline: Any, family: Family) -> dict[str, torch.Tensor]:
    """What read_lora finds of a file's magnitudes."""
    save_file(tensors, path)
    layers = read_lora(path, pipeline, family).layers
    return {name: layer.lengths for name, layer in layers.items() if layer.lengths is not None}


@pytest.mark.parametrize(
    ("kohya", "path", "shape"),
    [
        (f"lora_unet_{QUERY.replace('.', '_')}", QUERY, (16, 1)),
        ("lora_unet_mid_block_resnets_0_conv1", "mid_block.resnets.0.conv1", (16, 1, 1, 1)),
    ],
)
def test_lycoris_scales_of_the_outputs_are_the_same_magnitudes(
    kohya: str, path: str, shape: tuple[int, ...], sd: Setup, tmp_path: Path
) -> None:
    weight = module_of(sd.pipeline, f"unet.{path}").weight
    down, up = torch.randn(4, *weight.shape[1:]), torch.randn(16, 4, *(1,) * (weight.ndim - 2))
    magnitude = random_magnitude(weight)
    tensors = {f"{kohya}.lora_down.weight": down, f"{kohya}.lora_up.weight": up, f"{kohya}.alpha": torch.tensor(4.0)}
    theirs = tensors | {f"{kohya}.dora_scale": magnitude.view(shape)}
    of_peft = magnitude if weight.ndim == 2 else magnitude.view(1, -1, 1, 1)
    ours = {f"unet.{path}.lora_A.weight": down, f"unet.{path}.lora_B.weight": up}
    ours |= {f"unet.{path}.lora_magnitude_vector": of_peft}
    one, other = (gains(x, tmp_path / "a.safetensors", sd.pipeline, "sd")[f"unet.{path}"] for x in (ours, theirs))
    assert torch.equal(one, other)
    assert torch.equal(one[0], magnitude)
    changed = weight.flatten(1) + 0.6 * (up.flatten(1) @ down.flatten(1))
    squared = one[1] + 0.6 * (one[2] + 0.6 * one[3])
    torch.testing.assert_close(squared.sqrt(), changed.norm(dim=1))


def test_the_magnitudes_of_a_fused_matrix_go_to_its_modules(tiny_flux: Path, tmp_path: Path) -> None:
    pipeline = PIPELINES["flux"].from_pretrained(str(tiny_flux))
    name, magnitude = "diffusion_model.double_blocks.0.img_attn.qkv", torch.rand(96)
    tensors = {f"{name}.lora_A.weight": torch.randn(4, 32), f"{name}.lora_B.weight": torch.randn(96, 4)}
    tensors |= {f"{name}.dora_scale": magnitude[:, None]}
    found = gains(tensors, tmp_path / "a.safetensors", pipeline, "flux")
    assert list(found) == [f"transformer.transformer_blocks.0.attn.to_{letter}" for letter in "qkv"]
    assert torch.equal(torch.cat([lengths[0] for lengths in found.values()]), magnitude)


def test_outputs_whose_weights_are_zero_stay_finite(tiny_sd: Path, tmp_path: Path) -> None:
    pipeline = PIPELINES["sd"].from_pretrained(str(tiny_sd))
    with torch.no_grad():
        pipeline.unet.get_submodule(QUERY).weight[3] = 0
    name = f"unet.{QUERY}"
    path = tmp_path / "a.safetensors"
    up = torch.randn(16, 4)
    up[3] = 0
    tensors = {f"{name}.lora_A.weight": torch.randn(4, 16), f"{name}.lora_B.weight": up}
    save_file(tensors | {f"{name}.lora_magnitude_vector": torch.rand(16)}, path)
    bank = bank_for(pipeline, "sd")
    adapter = bank.acquire("a", lambda: path)
    with bank.rows("unet", [((adapter, 1.0),)]):
        assert denoise(pipeline, "sd", denoiser_inputs("sd", 1)).isfinite().all()


@pytest.mark.parametrize("header", [None, {"unet.use_dora": True}])
def test_a_dora_without_all_its_magnitudes_is_refused(
    header: dict[str, object] | None, sd: Setup, tmp_path: Path
) -> None:
    tensors = load_file(sd.paths[0])
    missing = [key for key in tensors if key.endswith("magnitude_vector")][: None if header else 2]
    kept: Sequence[str] = [key for key in tensors if key not in missing]
    path = tmp_path / "a.safetensors"
    save_file({key: tensors[key] for key in kept}, path, metadata={"lora_adapter_metadata": json.dumps(header or {})})
    with pytest.raises(AdapterError, match="belongs to a DoRA, but has no magnitude"):
        read_lora(path, sd.pipeline, "sd")
