"""Rows of one batch use different adapters and equal what diffusers makes of each alone; residency keeps its budget."""

import gc
import random
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pytest
import torch

from models.errors import AdapterError
from models.loader import PIPELINES
from models.lora import Adapter, LoraBank, RowLoras
from models.spec import Family
from tests.models.tiny_loras import make_lora

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
        return "transformer" if self.family == "flux" else "unet"

    def rows(self, recipes: Sequence[Recipe]) -> list[RowLoras]:
        return [tuple((self.adapters[number], scale) for number, scale in recipe) for recipe in recipes]

    def choose(self, recipe: Recipe) -> None:
        """What diffusers does for one row."""
        if not recipe:
            self.plain.disable_lora()
            return
        self.plain.enable_lora()
        self.plain.set_adapters([f"a{number}" for number, _ in recipe], [scale for _, scale in recipe])


def bank_for(pipeline: Any, family: Family, **budget: int) -> LoraBank:
    budgets = {"max_device_bytes": 10**8, "max_host_bytes": 10**8} | budget
    return LoraBank(pipeline, family, torch.device("cpu"), torch.float32, **budgets)


@pytest.fixture(scope="module", params=["sd", "sdxl", "flux"])
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


def denoiser_inputs(family: Family, num_rows: int, seed: int = 0) -> dict[str, Any]:
    random_B = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(num_rows, *shape, generator=random_B)

    if family == "flux":
        return {
            "hidden_states": noise(16, 4),
            "encoder_hidden_states": noise(7, 32),
            "pooled_projections": noise(32),
            "timestep": torch.rand(num_rows, generator=random_B),
            "guidance": torch.full((num_rows,), 3.5),
            "img_ids": torch.zeros(16, 3),
            "txt_ids": torch.zeros(7, 3),
        }
    inputs: dict[str, Any] = {
        "sample": noise(4, 8, 8),
        "timestep": torch.randint(0, 1000, (num_rows,), generator=random_B),
        "encoder_hidden_states": noise(77, 32 if family == "sd" else 64),
    }
    if family == "sdxl":
        inputs["added_cond_kwargs"] = {"text_embeds": noise(32), "time_ids": noise(6)}
    return inputs


def one_row(inputs: dict[str, Any], row: int) -> dict[str, Any]:
    def cut(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return one_row(value, row)
        return value if name in ("img_ids", "txt_ids") else value[row : row + 1]

    return {name: cut(name, value) for name, value in inputs.items()}


def denoise(pipeline: Any, family: Family, inputs: dict[str, Any]) -> torch.Tensor:
    model = pipeline.transformer if family == "flux" else pipeline.unet
    with torch.inference_mode():
        return model(**inputs, return_dict=False)[0]


def encode(encoder: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return encoder(tokens, output_hidden_states=True).hidden_states[-1]


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
    for name in ["text_encoder", *(["text_encoder_2"] if setup.family == "sdxl" else [])]:
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
    with sd.bank.rows("unet", sd.rows([((0, 1.0),), ()])):
        touched = {path for path, module in sd.pipeline.unet.named_modules() if module._forward_hooks}
    assert touched == set(sd.adapters[0].components["unet"])
    for nothing in ([(), ()], [((0, 0.0),), ()]):
        with sd.bank.rows("unet", sd.rows(nothing)):
            assert not any(module._forward_hooks for module in sd.pipeline.unet.modules())
    with sd.bank.rows("text_encoder", sd.rows([((0, 1.0),)])):  # an adapter of the UNet alone
        assert not any(module._forward_hooks for module in sd.pipeline.text_encoder.modules())


def test_the_same_batch_gives_the_same_bits_once_a_forward_was_watched(tiny_sd: Path, sd: Setup) -> None:
    pipeline = PIPELINES["sd"].from_pretrained(str(tiny_sd))
    bank, inputs = bank_for(pipeline, "sd"), denoiser_inputs("sd", 2)
    with bank.rows("unet", [()]):
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
    bank = LoraBank(pipeline, "sd", torch.device("cpu"), torch.bfloat16, max_device_bytes=10**8, max_host_bytes=10**8)
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

    denoise_once(), encode_once()  # the first forward is still learning what may be computed together
    expected = denoise_once(), encode_once()
    with ThreadPoolExecutor(2) as threads:
        denoised = threads.submit(lambda: [denoise_once() for _ in range(20)])
        encoded = threads.submit(lambda: [encode_once() for _ in range(60)])
        assert all(torch.equal(result, expected[0]) for result in denoised.result(WAIT_S))
        assert all(torch.equal(result, expected[1]) for result in encoded.result(WAIT_S))


class Files:
    """Adapter files that count how often each was asked for."""

    def __init__(self, folder: Path, pipeline: Any, count: int) -> None:
        self.paths = [
            make_lora(folder / f"{number}.safetensors", pipeline, "sd", seed=number) for number in range(count)
        ]
        self.fetched: list[int] = []

    def fetch(self, number: int) -> Callable[[], Path]:
        def fetch() -> Path:
            self.fetched.append(number)
            return self.paths[number]

        return fetch


@pytest.fixture
def files(sd: Setup, tmp_path: Path) -> Files:
    return Files(tmp_path, sd.pipeline, 4)


@pytest.fixture
def size(sd: Setup, files: Files) -> int:
    """Bytes of each of these adapters."""
    return bank_for(sd.pipeline, "sd").acquire("0", files.fetch(0)).num_bytes


def test_the_least_recently_used_idle_adapter_leaves_the_device(sd: Setup, files: Files, size: int) -> None:
    bank = bank_for(sd.pipeline, "sd", max_device_bytes=2 * size)
    held = [bank.acquire(str(number), files.fetch(number)) for number in (0, 1)]
    for adapter in held:
        bank.release(adapter)
    bank.release(bank.acquire("0", files.fetch(0)))  # 1 is now the oldest
    bank.release(bank.acquire("2", files.fetch(2)))
    assert (bank.stats.num_resident, bank.stats.device_bytes, bank.stats.num_evictions) == (2, 2 * size, 1)
    assert bank.acquire("0", files.fetch(0)) is held[0]
    assert bank.acquire("1", files.fetch(1)) is not held[1]
    assert (bank.stats.num_loads, bank.stats.num_hits) == (4, 2)


def test_an_adapter_in_use_is_never_evicted_even_above_the_budget(sd: Setup, files: Files, size: int) -> None:
    bank = bank_for(sd.pipeline, "sd", max_device_bytes=size)
    held = [bank.acquire(str(number), files.fetch(number)) for number in range(3)]
    assert (bank.stats.device_bytes, bank.stats.num_in_use, bank.stats.num_evictions) == (3 * size, 3, 0)
    assert bank.acquire("0", files.fetch(0)) is held[0]
    for adapter in held:
        bank.release(adapter)
    # 0 has been acquired twice.
    assert (bank.stats.device_bytes, bank.stats.num_in_use) == (size, 1)
    assert bank.acquire("0", files.fetch(0)) is held[0]


def test_what_left_the_device_comes_back_from_the_host_without_its_file(sd: Setup, files: Files, size: int) -> None:
    bank = bank_for(sd.pipeline, "sd", max_device_bytes=size)
    for number in (0, 1, 0):
        bank.release(bank.acquire(str(number), files.fetch(number)))
    assert (files.fetched, bank.stats.num_loads, bank.stats.host_bytes) == ([0, 1], 3, 2 * size)


def test_the_host_keeps_its_budget_too(sd: Setup, files: Files, size: int) -> None:
    bank = bank_for(sd.pipeline, "sd", max_device_bytes=size, max_host_bytes=2 * size)
    for number in (0, 1, 2, 0):
        bank.release(bank.acquire(str(number), files.fetch(number)))
    assert (files.fetched, bank.stats.host_bytes) == ([0, 1, 2, 0], 2 * size)


def test_an_evicted_adapter_and_its_stacks_are_freed(sd: Setup, files: Files, size: int) -> None:
    bank = bank_for(sd.pipeline, "sd", max_device_bytes=size, max_host_bytes=size)
    adapter = bank.acquire("0", files.fetch(0))
    with bank.rows("unet", [((adapter, 1.0),)]):
        denoise(sd.pipeline, "sd", denoiser_inputs("sd", 1))
    bank.release(adapter)
    memory = weakref.ref(adapter.memory)
    del adapter
    bank.release(bank.acquire("1", files.fetch(1)))
    gc.collect()
    assert memory() is None


def test_stacks_keep_their_budget_however_many_batches_come(sd: Setup, files: Files, size: int) -> None:
    bank = bank_for(sd.pipeline, "sd", max_device_bytes=40 * size)
    adapter = bank.acquire("0", files.fetch(0))
    for number in range(60):
        with bank.rows("unet", [((adapter, 1.0 + number),)]):
            denoise(sd.pipeline, "sd", denoiser_inputs("sd", 1))
    assert 0 < bank.stats.stack_bytes <= 20 * size


def test_callers_of_the_same_adapter_load_it_once(sd: Setup, files: Files) -> None:
    bank = bank_for(sd.pipeline, "sd")
    started, go = Event(), Event()

    def slow_fetch() -> Path:
        started.set()
        assert go.wait(WAIT_S)
        return files.fetch(0)()

    with ThreadPoolExecutor(6) as threads:
        first = threads.submit(bank.acquire, "0", slow_fetch)
        assert started.wait(WAIT_S)
        others = [threads.submit(bank.acquire, "0", files.fetch(0)) for _ in range(5)]
        go.set()
        adapters = {first.result(WAIT_S), *(other.result(WAIT_S) for other in others)}
    assert len(adapters) == 1
    assert files.fetched == [0]
    for _ in range(6):
        bank.release(next(iter(adapters)))
    assert bank.stats.num_in_use == 0


def test_loads_of_different_adapters_do_not_wait_for_each_other(sd: Setup, files: Files) -> None:
    bank = bank_for(sd.pipeline, "sd")
    both_inside = Barrier(2)

    def fetch(number: int) -> Path:
        both_inside.wait(WAIT_S)  # broken unless both are being loaded at once
        return files.paths[number]

    with ThreadPoolExecutor(2) as threads:
        loads = [threads.submit(bank.acquire, str(number), lambda number=number: fetch(number)) for number in (0, 1)]
        assert len({load.result(WAIT_S) for load in loads}) == 2


def test_a_resident_adapter_is_had_while_another_loads(sd: Setup, files: Files) -> None:
    bank = bank_for(sd.pipeline, "sd")
    bank.release(bank.acquire("0", files.fetch(0)))
    started, go = Event(), Event()

    def slow_fetch() -> Path:
        started.set()
        assert go.wait(WAIT_S)
        return files.paths[1]

    with ThreadPoolExecutor(1) as threads:
        load = threads.submit(bank.acquire, "1", slow_fetch)
        assert started.wait(WAIT_S)
        adapter = bank.acquire("0", files.fetch(0))
        with bank.rows("unet", [((adapter, 1.0),)]):
            denoise(sd.pipeline, "sd", denoiser_inputs("sd", 1))
        assert not load.done()
        go.set()
        load.result(WAIT_S)


def test_a_failed_load_reaches_all_who_wait_and_is_not_remembered(sd: Setup, files: Files, tmp_path: Path) -> None:
    bank = bank_for(sd.pipeline, "sd")
    started, go = Event(), Event()
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"not safetensors")

    def slow_fetch() -> Path:
        started.set()
        assert go.wait(WAIT_S)
        return damaged

    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(bank.acquire, "0", slow_fetch)
        assert started.wait(WAIT_S)
        second = threads.submit(bank.acquire, "0", lambda: damaged)
        go.set()
        for load in (first, second):
            with pytest.raises(AdapterError, match="not a safetensors file"):
                load.result(WAIT_S)
    assert (bank.stats.num_resident, bank.stats.device_bytes, bank.stats.host_bytes) == (0, 0, 0)
    assert bank.acquire("0", files.fetch(0)).sha256 == "0"


def test_many_threads_keep_the_books_straight(sd: Setup, files: Files, size: int) -> None:
    bank = bank_for(sd.pipeline, "sd", max_device_bytes=2 * size, max_host_bytes=3 * size)

    def work(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(40):
            number = draw.randrange(4)
            adapter = bank.acquire(str(number), files.fetch(number))
            assert adapter.sha256 == str(number)
            bank.release(adapter)

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(work, seed) for seed in range(4)]:
            done.result(WAIT_S)
    stats = bank.stats
    assert (stats.num_in_use, stats.num_loads + stats.num_hits) == (0, 160)
    assert stats.device_bytes == stats.num_resident * size <= 2 * size
    assert stats.host_bytes <= 3 * size
    assert stats.num_loads - stats.num_evictions == stats.num_resident
