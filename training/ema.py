"""The moving average of what is trained, which is steadier than its last value."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def decay_at(step: int, limit: float) -> float:
    """Of the update after step 0, 1, …: short memory first, as in TensorFlow's ExponentialMovingAverage."""
    return min(limit, (1 + step) / (10 + step))


class Ema:
    """Averages beside the parameters, on their device."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._decay = decay
        self._names = list(parameters)
        self._parameters = [parameter.detach() for parameter in parameters.values()]
        self._averages = [parameter.clone() for parameter in self._parameters]

    def update(self, step: int) -> None:
        """Takes in what the parameters are after `step`."""
        torch._foreach_lerp_(self._averages, self._parameters, 1.0 - decay_at(step, self._decay))

    @contextmanager
    def in_place(self) -> Generator[None, None, None]:
        """Inside, the parameters are their averages."""
        own = [parameter.clone() for parameter in self._parameters]
        torch._foreach_copy_(self._parameters, self._averages)
        try:
            yield
        finally:
            torch._foreach_copy_(self._parameters, own)

    def state(self) -> dict[str, Tensor]:
        """The averages by the names of their parameters; not copied."""
        return dict(zip(self._names, self._averages, strict=True))

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of state()."""
        torch._foreach_copy_(self._averages, [tensors[name].to(self._averages[0].device) for name in self._names])
