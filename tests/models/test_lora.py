"""Rows of one batch use different adapters, and each equals what diffusers makes of it alone."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from models.loader import PIPELINES
from models.lora import Adapter, LoraBank, RowLoras
from models.spec import Family
from tests.models.forwards import denoise, denoiser_inputs, encode, one_row
from tests.models.tiny_loras import ENCODER_PREFIXES, make_lora

TOLERANCE = 1e-5
WAIT_S = 30.0
Recipe = tuple[tuple[int, float], ...]  # adapters by number, each with its scale
RECIPES: list[Recipe] = [(), ((0, 1.0),), ((0, 0.7), (1, 0.5)), ((2, -1.0),), ((2, -1.0),), ((1, 1.3), (2, 0.4)), ()]


@dataclass(frozen=True)
class Setup:
    """A model with our bank, the same model for diffusers' own LoRA loader, and three adapters both have."""

    family: Family
    pipeline: Any
    plain: Any
    bank: LoraBank
    adapters: list[Adapter]
    paths: list[Path]

    @property
    def denoiser(self) -> str:
        return "unet" if hasattr(self.pipeline, "unet") else "transformer"

    def rows(self, recipes: Sequence[Recipe]) -> list[RowLoras]:
        return [tuple((self.adapters[number], scale) for number, scale in recipe) for recipe in recipes]

    def choose(self, recipe: Recipe) -> None:
        """What diffusers does for one row."""
        if not recipe:
            self.plain.disable_lora()
            return
        self.plain.enable_lora()
        self.plain.set_adapters([f"a{number}" for number, _ in recipe], [scale for _, scale in recipe])


def bank_for(pipeline: Any, family: Family) -> LoraBank:
    cpu, dtype = torch.device("cpu"), pipeline.dtype
    return LoraBank(pipeline, family, cpu, dtype, max_device_bytes=10**8, max_host_bytes=10**8)


@pytest.fixture(scope="module", params=list(PIPELINES))
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return make_setup(request.param, request.getfixturevalue(f"tiny_{request.param}"), tmp_path_factory.mktemp("loras"))


@pytest.fixture(scope="module")
def sd(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return make_setup("sd", tiny_sd, tmp_path_factory.mktemp("loras"))


def make_setup(family: Family, model: Path, folder: Path) -> Setup:
    pipeline, plain = (PIPELINES[family].from_pretrained(str(model)) for _ in range(2))
    bank = bank_for(pipeline, family)
    paths, adapters = [], []
    for number, (rank, alpha, targets) in enumerate([(4, 2.0, "attention"), (8, 8.0, "all"), (6, 3.0, "all")]):
        options: dict[str, Any] = {"rank": rank, "alpha": alpha, "targets": targets, "seed": number}
        path = make_lora(folder / f"{number}.safetensors", pipeline, family, format="peft", **options)
        plain.load_lora_weights(str(path), adapter_name=f"a{number}")
        # diffusers reads the first one as PEFT wrote it; ours come in all three formats.
        ours = make_lora(
            folder / f"{number}-ours.safetensors",
            pipeline,
            family,
            format=("peft", "kohya", "comfy")[number],
            **options,
        )
        adapters.append(bank.acquire(str(number), lambda path=ours: path))
        paths.append(ours)
    return Setup(family, pipeline, plain, bank, adapters, paths)


def watch_one_forward(setup: Setup) -> None:
    """What warming up does: afterwards it is known which modules share their input."""
    with setup.bank.rows(setup.denoiser, [()]):
        denoise(setup.pipeline, setup.family, denoiser_inputs(setup.family, 1))
    with setup.bank.rows("text_encoder", [()]):
        encode(setup.pipeline.text_encoder, torch.zeros(1, 77, dtype=torch.long))


def assert_rows_equal_diffusers(setup: Setup, recipes: Sequence[Recipe], seed: int = 0) -> torch.Tensor:
    inputs = denoiser_inputs(setup.family, len(recipes), seed)
    with setup.bank.rows(setup.denoiser, setup.rows(recipes)):
        mixed = denoise(setup.pipeline, setup.family, inputs)
    for row, recipe in enumerate(recipes):
        setup.choose(recipe)
        alone = denoise(setup.plain, setup.family, one_row(inputs, row))
        torch.testing.assert_close(mixed[row], alone[0], rtol=0, atol=TOLERANCE)
    return mixed


def test_mixed_rows_of_the_denoiser_equal_diffusers_alone(setup: Setup) -> None:
    mixed = assert_rows_equal_diffusers(setup, RECIPES)
    without = denoise(setup.pipeline, setup.family, denoiser_inputs(setup.family, len(RECIPES)))
    changed = (mixed - without).abs().amax(dim=tuple(range(1, mixed.ndim)))
    assert [bool(change > 100 * TOLERANCE) for change in changed] == [bool(recipe) for recipe in RECIPES]


def test_mixed_rows_of_the_text_encoders_equal_diffusers_alone(setup: Setup) -> None:
    tokens = torch.randint(0, 90, (len(RECIPES), 77), generator=torch.Generator().manual_seed(0))
    if not ENCODER_PREFIXES[setup.family]:
        pytest.skip("nobody adapts its text encoder")
    for name in ENCODER_PREFIXES[setup.family]:
        with setup.bank.rows(name, setup.rows(RECIPES)):
            mixed = encode(getattr(setup.pipeline, name), tokens)
        for row, recipe in enumerate(RECIPES):
            setup.choose(recipe)
            alone = encode(getattr(setup.plain, name), tokens[row : row + 1])
            torch.testing.assert_close(mixed[row], alone[0], rtol=0, atol=TOLERANCE)
        assert not torch.allclose(mixed, encode(getattr(setup.pipeline, name), tokens), atol=100 * TOLERANCE)


@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_batches_equals_diffusers(seed: int, setup: Setup) -> None:
    # Rows come, go and change places from step to step, as they do in the engine.
    draw = random.Random(seed)
    recipes: list[Recipe] = []
    for step in range(4):
        recipes = [recipe for recipe in recipes if draw.random() < 0.7]
        for _ in range(draw.randint(1, 3)):
            numbers = draw.sample(range(3), draw.randint(0, 3))
            recipe = tuple((number, draw.choice([0.0, 0.5, 1.0, -0.3])) for number in numbers)
            recipes += [recipe] * draw.randint(1, 2)
        draw.shuffle(recipes)
        assert_rows_equal_diffusers(setup, recipes, seed=100 * seed + step)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_kohya_files_mean_what_diffusers_reads_in_them(
    family: Family, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = request.getfixturevalue(f"tiny_{family}")
    pipeline, plain = (PIPELINES[family].from_pretrained(str(model)) for _ in range(2))
    path = make_lora(
        tmp_path / "a.safetensors", pipeline, family, format="kohya", rank=4, alpha=3, targets="all", seed=9
    )
    bank = bank_for(pipeline, family)
    row = ((bank.acquire("a", lambda: path), 1.0),)
    plain.load_lora_weights(str(path))
    inputs, tokens = denoiser_inputs(family, 2), torch.arange(2 * 77).view(2, 77) % 90
    with bank.rows("unet", [row, row]), bank.rows("text_encoder", [row, row]):
        ours = denoise(pipeline, family, inputs), encode(pipeline.text_encoder, tokens)
    torch.testing.assert_close(ours[0], denoise(plain, family, inputs), rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(ours[1], encode(plain.text_encoder, tokens), rtol=0, atol=TOLERANCE)


def test_rows_without_an_adapter_come_out_bit_for_bit_the_same(setup: Setup) -> None:
    inputs = denoiser_inputs(setup.family, 5)
    without = denoise(setup.pipeline, setup.family, inputs)
    with setup.bank.rows(setup.denoiser, setup.rows([(), ((1, 1.0),), (), ((2, 1.0),), ()])):
        mixed = denoise(setup.pipeline, setup.family, inputs)
    assert all(torch.equal(mixed[row], without[row]) for row in (0, 2, 4))


def test_after_the_forward_nothing_is_left_on_the_model(sd: Setup) -> None:
    inputs = denoiser_inputs("sd", 2)
    without = denoise(sd.pipeline, "sd", inputs)
    with pytest.raises(RuntimeError, match="boom"), sd.bank.rows("unet", sd.rows([((0, 1.0),), ((1, 1.0),)])):
        denoise(sd.pipeline, "sd", inputs)
        raise RuntimeError("boom")
    assert not any(module._forward_hooks for module in sd.pipeline.unet.modules())
    assert torch.equal(denoise(sd.pipeline, "sd", inputs), without)


def test_only_the_modules_of_this_batchs_adapters_are_touched(sd: Setup) -> None:
    watch_one_forward(sd)
    with sd.bank.rows("unet", sd.rows([((0, 1.0),), ()])) as is_adapted:
        assert is_adapted
        touched = {path for path, module in sd.pipeline.unet.named_modules() if module._forward_hooks}
    assert touched == set(sd.adapters[0].components["unet"])
    for nothing in ([(), ()], [((0, 0.0),), ()]):
        with sd.bank.rows("unet", sd.rows(nothing)) as is_adapted:
            assert not is_adapted
            assert not any(module._forward_hooks for module in sd.pipeline.unet.modules())
    with sd.bank.rows("text_encoder", sd.rows([((0, 1.0),)])) as is_adapted:  # an adapter of the UNet alone
        assert not is_adapted


def test_the_same_batch_gives_the_same_bits_once_a_forward_was_watched(tiny_sd: Path, sd: Setup) -> None:
    pipeline = PIPELINES["sd"].from_pretrained(str(tiny_sd))
    bank, inputs = bank_for(pipeline, "sd"), denoiser_inputs("sd", 2)
    with bank.rows("unet", [()]) as is_watched:
        assert is_watched
        denoise(pipeline, "sd", denoiser_inputs("sd", 1))
    rows = [((bank.acquire("1", lambda: sd.paths[1]), 1.0),), ((bank.acquire("2", lambda: sd.paths[2]), 1.0),)]
    results = []
    for _ in range(3):
        with bank.rows("unet", rows):
            results.append(denoise(pipeline, "sd", inputs))
        with bank.rows("unet", rows[::-1]):  # in between, other batches have come and gone
            denoise(pipeline, "sd", inputs)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_bfloat16_models_take_adapters_in_bfloat16(tiny_sd: Path, sd: Setup) -> None:
    pipeline = PIPELINES["sd"].from_pretrained(str(tiny_sd), dtype=torch.bfloat16)
    bank = bank_for(pipeline, "sd")
    adapter = bank.acquire("1", lambda: sd.paths[1])
    assert adapter.num_bytes * 2 == sd.adapters[1].num_bytes
    inputs = {
        name: value.bfloat16() if value.is_floating_point() else value
        for name, value in denoiser_inputs("sd", 2).items()
    }
    with bank.rows("unet", [(), ((adapter, 1.0),)]):
        mixed = denoise(pipeline, "sd", inputs)
    with sd.bank.rows("unet", sd.rows([(), ((1, 1.0),)])):
        exact = denoise(sd.pipeline, "sd", denoiser_inputs("sd", 2))
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), exact, rtol=0.1, atol=0.1)


def test_channels_last_convolutions_are_adapted_alike(tiny_sd: Path, sd: Setup) -> None:
    pipeline = PIPELINES["sd"].from_pretrained(str(tiny_sd))
    pipeline.unet.to(memory_format=torch.channels_last)
    bank = bank_for(pipeline, "sd")
    adapters = [bank.acquire(str(number), lambda path=path: path) for number, path in enumerate(sd.paths)]
    recipes: list[Recipe] = [((1, 1.0),), ((2, 0.5),), (), ((1, 1.0),)]
    inputs = denoiser_inputs("sd", 4)
    with sd.bank.rows("unet", sd.rows(recipes)):
        expected = denoise(sd.pipeline, "sd", inputs)
    inputs["sample"] = inputs["sample"].to(memory_format=torch.channels_last)
    with bank.rows("unet", [tuple((adapters[number], scale) for number, scale in recipe) for recipe in recipes]):
        torch.testing.assert_close(denoise(pipeline, "sd", inputs), expected, rtol=0, atol=TOLERANCE)


def test_denoiser_and_text_encoder_run_at_the_same_time(sd: Setup) -> None:
    recipes: list[Recipe] = [((1, 1.0),), (), ((2, 1.0),)]
    inputs, tokens = denoiser_inputs("sd", 3), torch.arange(3 * 77).view(3, 77) % 90
    # Another batch there than here: neither may see the other's rows.
    others: list[Recipe] = [((2, 0.5),), ((1, 0.5),), ()]

    def denoise_once() -> torch.Tensor:
        with sd.bank.rows("unet", sd.rows(recipes)):
            return denoise(sd.pipeline, "sd", inputs)

    def encode_once() -> torch.Tensor:
        with sd.bank.rows("text_encoder", sd.rows(others)):
            return encode(sd.pipeline.text_encoder, tokens)

    watch_one_forward(sd)
    expected = denoise_once(), encode_once()
    with ThreadPoolExecutor(2) as threads:
        denoised = threads.submit(lambda: [denoise_once() for _ in range(20)])
        encoded = threads.submit(lambda: [encode_once() for _ in range(60)])
        assert all(torch.equal(result, expected[0]) for result in denoised.result(WAIT_S))
        assert all(torch.equal(result, expected[1]) for result in encoded.result(WAIT_S))
