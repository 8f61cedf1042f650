"""Denoiser: the model's largest part, run as it is or compiled. Compiling changes no input and no order of rows."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from configs.settings import EngineSettings

# name → tensor, or a mapping of such, or None where the model does without
Inputs = Mapping[str, torch.Tensor | Mapping[str, torch.Tensor] | None]
Compiler = Callable[[nn.Module], Callable[..., Any]]


class Denoiser:
    """Runs any number of rows. Compiled code is made once for every shape, so there it meets few row counts only."""

    def __init__(self, module: nn.Module, compiler: Compiler | None = None) -> None:
        self.module = module
        self._compiled = None if compiler is None else compiler(module)

    def rows_run(self, num_rows: int) -> int:
        """How many rows are run for so many: compiled code comes in powers of two."""
        return num_rows if self._compiled is None else next_power_of_two(num_rows)

    def __call__(self, rows: Inputs, shared: Inputs, *, num_rows: int, is_adapted: bool) -> torch.Tensor:
        """`rows` have one entry for each row, in their first dimension; `shared` go to all of them.

        Adapted rows take the module as it is: compiled code would not see the hooks that adapt it.
        """
        if self._compiled is None or is_adapted:
            predicted: torch.Tensor = self.module(**rows, **shared, return_dict=False)[0]
            return predicted
        filled = _filled_up(rows, num_rows, self.rows_run(num_rows))
        # A CUDA graph writes its output to the same place every time; the next step must not overwrite this one's.
        torch.compiler.cudagraph_mark_step_begin()
        compiled: torch.Tensor = self._compiled(**filled, **shared, return_dict=False)[0]
        return compiled[:num_rows].clone()


def compiler_for(settings: EngineSettings, device: torch.device) -> Compiler | None:
    """What the settings ask for; None on a CPU, where compiling needs a C++ compiler and gains little."""
    if not settings.compile or device.type != "cuda":
        return None
    mode = "reduce-overhead" if settings.cuda_graphs else "max-autotune-no-cudagraphs"
    return partial(torch.compile, mode=mode, dynamic=False)


def prefer_channels_last(pipeline: Any) -> None:  # noqa: ANN401 - diffusers is untyped
    """Lays out the weights of convolutions as the fast kernels of both CPUs and GPUs want them."""
    for name in ("unet", "vae"):
        if isinstance(module := getattr(pipeline, name, None), nn.Module):
            for layer in module.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _filled_up(rows: Inputs, num_rows: int, wanted: int) -> dict[str, Any]:
    """The rows with copies of the last one behind them; nobody looks at what becomes of the copies."""
    if wanted == num_rows:
        return dict(rows)

    def fill(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor, tensor[-1:].expand(wanted - num_rows, *tensor.shape[1:])])

    filled: dict[str, Any] = {}
    for name, value in rows.items():
        if isinstance(value, Mapping):
            filled[name] = {key: fill(tensor) for key, tensor in value.items()}
        else:
            filled[name] = None if value is None else fill(value)
    return filled
