"""Compiled or not, the denoiser gives every row its own answer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from configs.settings import EngineSettings
from models.spec import Family
from pipelines.speed import Denoiser, compiler_for, next_power_of_two, prefer_channels_last
from tests.pipelines.bench import TOLERANCE, Bench


class Doubling(nn.Module):
    """Doubles rows, adds what is shared, and remembers how many rows it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def forward(self, x: torch.Tensor, more: dict[str, torch.Tensor], none: None, bias: torch.Tensor, **_: Any) -> Any:
        self.calls.append(len(x))
        assert none is None
        return (2 * x + more["offset"] + bias,)


def run(denoiser: Denoiser, num_rows: int, *, is_adapted: bool = False) -> torch.Tensor:
    rows = {
        "x": torch.arange(num_rows).float()[:, None],
        "more": {"offset": torch.arange(num_rows).float()[:, None] * 100},
        "none": None,
    }
    return denoiser(rows, {"bias": torch.tensor(0.5)}, num_rows=num_rows, is_adapted=is_adapted)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 5, 8])
def test_compiled_code_meets_powers_of_two_and_gives_every_row_its_own(num_rows: int) -> None:
    module = Doubling()
    denoiser = Denoiser(module, compiler=lambda it: it)
    expected = 102 * torch.arange(num_rows).float()[:, None] + 0.5
    assert torch.equal(run(denoiser, num_rows), expected)
    assert module.calls == [denoiser.rows_run(num_rows)] == [next_power_of_two(num_rows)]


def test_adapted_rows_take_the_module_itself_and_just_as_many() -> None:
    module = Doubling()

    def refuse(_module: nn.Module) -> Callable[..., Any]:
        def compiled(**_: Any) -> Any:
            raise AssertionError("compiled code does not see the hooks that adapt a row")

        return compiled

    assert len(run(Denoiser(module, refuse), 3, is_adapted=True)) == 3
    assert module.calls == [3]


def test_without_a_compiler_nothing_is_filled_up() -> None:
    module = Doubling()
    denoiser = Denoiser(module)
    run(denoiser, 5)
    assert module.calls == [5]
    assert denoiser.rows_run(5) == 5


def test_compiling_is_for_cuda_and_for_those_who_ask() -> None:
    wanted = EngineSettings(compile=True)
    assert compiler_for(wanted, torch.device("cpu")) is None
    assert compiler_for(EngineSettings(), torch.device("cuda")) is None
    assert compiler_for(wanted, torch.device("cuda")) is not None


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_traced_denoiser_gives_the_pixels_of_the_plain_one(benches: dict[Family, Bench], family: Family) -> None:
    """torch.compile without its code generator, which would need a C++ compiler: traced, and run as it is."""
    bench = benches[family]
    runner, request = bench.runner, bench.request(num_images=3)
    expected = bench.pixels(request)
    plain = runner.denoiser
    traces: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        traces.append(len(inputs))
        return graph.forward

    runner.denoiser = Denoiser(plain.module, lambda module: torch.compile(module, backend=backend, dynamic=False))
    try:
        made = bench.pixels(request)
    finally:
        runner.denoiser = plain
        torch.compiler.reset()
    assert traces, "nothing was traced"
    for ours, theirs in zip(made, expected, strict=True):
        assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= TOLERANCE


def test_convolutions_are_laid_out_channels_last_and_keep_their_numbers(sd: Bench) -> None:
    weights = {name: parameter.clone() for name, parameter in sd.loaded.pipeline.unet.named_parameters()}
    prefer_channels_last(sd.loaded.pipeline)
    after = dict(sd.loaded.pipeline.unet.named_parameters())
    assert all(torch.equal(weights[name], after[name]) for name in weights)
    assert after["conv_in.weight"].is_contiguous(memory_format=torch.channels_last)
