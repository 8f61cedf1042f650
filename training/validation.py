"""The loss on what is held out, with noises and timesteps that are always the same: only the weights change it.

C latent channels.
"""

from collections.abc import Sequence

import torch

from training.data_order import Samples
from training.learners.base import Draws, Learner
from training.randomness import generator

Row = tuple[int, int]  # a sample and which of its draws


class Validator:
    """Every held-out sample is noised `num_draws` times, the timesteps spread evenly over all there are."""

    def __init__(self, learner: Learner, samples: Samples, *, num_draws: int, batch_size: int, seed: int) -> None:
        held_out = [i for i, sample in enumerate(samples.samples) if sample.is_held_out]
        if not held_out:
            raise ValueError("nothing is held out")
        self._learner = learner
        self._samples = samples
        self._num_draws = num_draws
        self._seed = seed
        self._chunks: list[list[Row]] = []  # each of one bucket
        for bucket in sorted({samples.samples[i].bucket for i in held_out}):
            ids = [i for i in held_out if samples.samples[i].bucket == bucket]
            rows = [(i, draw) for i in ids for draw in range(num_draws)]
            self._chunks += [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]

    def loss(self, *, with_adapter: bool = True) -> float:
        """Mean over all samples and draws; off: the base model's."""
        total = torch.zeros((), dtype=torch.float64, device=self._learner.device)
        for rows in self._chunks:
            batch = self._samples.batch([i for i, _ in rows], without_words=[False] * len(rows))
            draws = self._draws(rows, tuple(batch.latents.mean_BCHW.shape[1:]))
            total += self._learner.plain_losses(batch, draws, with_adapter=with_adapter).double().sum()
        return float(total) / sum(map(len, self._chunks))

    def _draws(self, rows: Sequence[Row], shape_CHW: tuple[int, ...]) -> Draws:
        posterior, noise, timestep, offset = [], [], [], []
        for sample, draw in rows:
            chance = generator(self._seed, "validation", sample, draw)
            posterior.append(torch.randn(shape_CHW, generator=chance))
            noise.append(torch.randn(shape_CHW, generator=chance))
            timestep.append((draw + torch.rand((), generator=chance)) / self._num_draws)
            offset.append(torch.randn((shape_CHW[0], 1, 1), generator=chance))
        return Draws(*(torch.stack(part).to(self._learner.device) for part in (posterior, noise, timestep, offset)))
