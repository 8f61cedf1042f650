"""What a GPU does in a step, recorded once for each shape and played again without the host.

A UNet's step is thousands of small kernels, and a fast GPU waits for whoever asks for them one by one. Played again
they are the same kernels on the same shapes, so the numbers are the same. After torch.cuda.make_graphed_callables, but
the first step of a shape runs as it is, to warm up, and no step writes over a gradient that was handed out.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.learners.base import Batch, Draws, LatentStats

Errors = Callable[[Batch, Draws], Tensor]

SPARE = 2.0  # a recording keeps its memory: at least this often what a step takes must be free


class Recordings:
    """Of one learner; its parameters stay where they are and change in place."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = tuple(parameters)
        # One for all, since a step is over before the next one begins.
        self._pool = torch.cuda.graph_pool_handle()
        self._warm: set[Hashable] = set()
        self._learned: dict[Hashable, _Learned] = {}
        self._seen: dict[Hashable, _Seen] = {}

    def learned(self, errors: Errors, batch: Batch, draws: Draws) -> Tensor:
        """errors(batch, draws), to be followed by backward() before anything else is asked."""
        key = ("learned", *_shapes(batch, draws))
        if key not in self._learned:
            if not self._may_record(key):
                return errors(batch, draws)
            self._learned[key] = _Learned(errors, batch, draws, self._parameters, self._pool)
        recording = self._learned[key]
        _take(recording.inputs, batch, draws)
        losses_B: Tensor = _Replay.apply(recording, *self._parameters)
        return losses_B

    def seen(self, kind: str, errors: Errors, batch: Batch, draws: Draws) -> Tensor:
        """The same without gradients; `kind` tells apart what a recording cannot see, such as adapters that are off."""
        key = ("seen", kind, *_shapes(batch, draws))
        if key not in self._seen:
            if not self._may_record(key):
                return errors(batch, draws)
            self._seen[key] = _Seen(errors, batch, draws, self._pool)
        recording = self._seen[key]
        _take(recording.inputs, batch, draws)
        return recording.play()

    def _may_record(self, key: Hashable) -> bool:
        """From the second time on, where memory is no concern."""
        is_warm = key in self._warm
        self._warm.add(key)
        taken_bytes = torch.cuda.memory_allocated()
        free_bytes = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - taken_bytes
        return is_warm and free_bytes > SPARE * (torch.cuda.max_memory_allocated() - taken_bytes)


class _Learned:
    """A forward and a backward pass."""

    def __init__(
        self,
        errors: Errors,
        batch: Batch,
        draws: Draws,
        parameters: Sequence[nn.Parameter],
        pool: Any,  # noqa: ANN401 - a handle of torch's own
    ) -> None:
        self.inputs = [tensor.clone() for tensor in _tensors(batch, draws)]
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._forward, pool=pool):
            losses_B = errors(*_restored(batch, self.inputs))
        self._losses_B, self._gradient_B = losses_B.detach(), torch.ones_like(losses_B)
        with torch.cuda.graph(self._backward, pool=pool):
            self._gradients = torch.autograd.grad(losses_B, parameters, self._gradient_B)

    def forward(self) -> Tensor:
        self._forward.replay()
        return self._losses_B.clone()

    def backward(self, gradient_B: Tensor) -> tuple[Tensor, ...]:
        self._gradient_B.copy_(gradient_B)
        self._backward.replay()
        return torch._foreach_mul(self._gradients, 1.0)


class _Seen:
    """A forward pass alone."""

    def __init__(self, errors: Errors, batch: Batch, draws: Draws, pool: Any) -> None:  # noqa: ANN401
        self.inputs = [tensor.clone() for tensor in _tensors(batch, draws)]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._losses_B = errors(*_restored(batch, self.inputs))

    def play(self) -> Tensor:
        self._graph.replay()
        return self._losses_B.clone()


class _Replay(torch.autograd.Function):
    """Hangs a recording into autograd."""

    @staticmethod
    def forward(ctx: Any, recording: _Learned, *_parameters: Tensor) -> Tensor:  # noqa: ANN401
        ctx.recording = recording
        return recording.forward()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        return None, *ctx.recording.backward(gradients[0])


def _tensors(batch: Batch, draws: Draws) -> list[Tensor]:
    """All that an error depends on."""
    return [
        *(batch.latents.mean_BCHW, batch.latents.std_BCHW),
        *(draws.posterior_BCHW, draws.noise_BCHW, draws.timestep_B, draws.offset_BC11),
        *batch.texts.values(),
        *batch.shape.values(),
    ]


def _restored(like: Batch, tensors: Sequence[Tensor]) -> tuple[Batch, Draws]:
    """The inverse of _tensors()."""
    stats, draws, named = tensors[:2], tensors[2:6], iter(tensors[6:])
    texts = {name: next(named) for name in like.texts}
    shape = {name: next(named) for name in like.shape}
    return Batch(LatentStats(*stats), texts, shape, like.weight_B), Draws(*draws)


def _take(inputs: list[Tensor], batch: Batch, draws: Draws) -> None:
    torch._foreach_copy_(inputs, _tensors(batch, draws))


def _shapes(batch: Batch, draws: Draws) -> list[Hashable]:
    return [tuple(tensor.shape) for tensor in _tensors(batch, draws)]
