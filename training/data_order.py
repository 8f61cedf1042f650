"""Which samples each step learns from, as a function of the seed and the step alone: there is no state to save.

Batches are of one bucket. A bucket's samples come in shuffled epochs, one behind the other, so a batch that an epoch
does not fill is filled from the next. A round is as many batches as there are samples; in it a bucket of n samples has
n batches, evenly spread: so every sample comes as often as any other, batch_size times a round.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from training.learners.base import Batch
from training.randomness import generator, permutation


class Placed(Protocol):
    """What is asked of a sample here."""

    @property
    def bucket(self) -> tuple[int, int]: ...
    @property
    def is_held_out(self) -> bool: ...
    @property
    def is_prior(self) -> bool: ...


class Samples(Protocol):
    """What there is to learn from; training.caching has the real ones."""

    @property
    def samples(self) -> Sequence[Placed]: ...
    def batch(self, ids: Sequence[int], *, without_words: Sequence[bool]) -> Batch: ...


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What goes through the model at once; places in the list of samples."""

    ids: tuple[int, ...]
    without_words: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class _Pool:
    """Samples that share their batches out among themselves."""

    name: str
    buckets: tuple[tuple[int, ...], ...]

    @property
    def num_samples(self) -> int:
        return sum(map(len, self.buckets))


class DataOrder:
    """All samples but those held out; where there are prior ones, every other batch is of them."""

    def __init__(
        self, samples: Sequence[Placed], *, batch_size: int, accumulate: int, drop_rate: float, seed: int
    ) -> None:
        own = [i for i, sample in enumerate(samples) if not sample.is_held_out and not sample.is_prior]
        prior = [i for i, sample in enumerate(samples) if sample.is_prior]
        if not own:
            raise ValueError("there is nothing to learn from")
        pools = (_Pool("own", _by_bucket(samples, own)), _Pool("prior", _by_bucket(samples, prior)))
        self._pools = [pool for pool in pools if pool.buckets]
        self._batch_size = batch_size
        self._accumulate = accumulate
        self._drop_rate = drop_rate
        self._seed = seed

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """Those whose gradients make one step, `accumulate` of them."""
        first = step * self._accumulate
        return [self._micro_batch(first + i) for i in range(self._accumulate)]

    def _micro_batch(self, number: int) -> MicroBatch:
        turn, which = divmod(number, len(self._pools))
        draws = torch.rand(self._batch_size, generator=generator(self._seed, "words", number))
        ids = self._ids(self._pools[which], turn)
        return MicroBatch(ids, tuple((draws < self._drop_rate).tolist()))

    def _ids(self, pool: _Pool, turn: int) -> tuple[int, ...]:
        round_number, place = divmod(turn, pool.num_samples)
        bucket, nth = self._turn_of(pool, round_number, place)
        members = pool.buckets[bucket]
        first = (round_number * len(members) + nth) * self._batch_size
        epochs: dict[int, list[int]] = {}
        ids = []
        for position in range(first, first + self._batch_size):
            epoch, index = divmod(position, len(members))
            if epoch not in epochs:
                epochs[epoch] = permutation(len(members), self._seed, f"order {pool.name}", bucket, epoch)
            ids.append(members[epochs[epoch][index]])
        return tuple(ids)

    def _turn_of(self, pool: _Pool, round_number: int, place: int) -> tuple[int, int]:
        """Whose batch comes at this place of a round, and which of that bucket's batches in the round it is."""
        chance = generator(self._seed, f"turns {pool.name}", round_number)
        bucket_of = torch.tensor([i for i, members in enumerate(pool.buckets) for _ in members])
        nth_of = torch.cat([torch.arange(len(members)) for members in pool.buckets])
        size_of = torch.tensor([len(members) for members in pool.buckets])[bucket_of]
        # The nth of a bucket's n batches lies somewhere in the nth of n equal parts of the round.
        when = (nth_of + torch.rand(len(nth_of), generator=chance, dtype=torch.float64)) / size_of
        chosen = torch.argsort(when, stable=True)[place]
        return int(bucket_of[chosen]), int(nth_of[chosen])


def _by_bucket(samples: Sequence[Placed], ids: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    buckets = sorted({samples[i].bucket for i in ids})
    return tuple(tuple(i for i in ids if samples[i].bucket == bucket) for bucket in buckets)
