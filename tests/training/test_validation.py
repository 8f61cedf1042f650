"""The validation loss depends on the weights alone."""

import pytest
import torch

from tests.training.toy import ToyLearner, ToySample, ToySamples
from training.validation import Validator


def validator(learner, samples, *, batch_size=2, num_draws=4, seed=1):
    return Validator(learner, samples, num_draws=num_draws, batch_size=batch_size, seed=seed)


def test_the_same_weights_have_the_same_loss_whatever_was_drawn_before():
    check = validator(ToyLearner(), ToySamples())
    first = check.loss()
    torch.randn(100)
    assert check.loss() == first


def test_noises_do_not_depend_on_how_samples_are_batched():
    losses = [validator(ToyLearner(), ToySamples(), batch_size=size).loss() for size in (1, 3, 64)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_other_weights_have_another_loss_and_the_base_model_its_own():
    learner = ToyLearner()
    check = validator(learner, ToySamples())
    before = check.loss()
    with torch.no_grad():
        learner.up += 0.1
    assert check.loss() != before
    assert check.loss(with_adapter=False) == before


def test_timesteps_are_spread_evenly_and_only_held_out_samples_are_seen():
    seen, timesteps = [], []

    class Noting(ToySamples):
        def batch(self, ids, *, without_words):
            assert not any(without_words)
            seen.extend(ids)
            return super().batch(ids, without_words=without_words)

    class Timing(ToyLearner):
        def plain_losses(self, batch, draws, *, with_adapter=True):
            timesteps.extend(draws.timestep_B.tolist())
            return super().plain_losses(batch, draws, with_adapter=with_adapter)

    validator(Timing(), Noting(), num_draws=5).loss()
    assert sorted(seen) == [0] * 5 + [5] * 5 + [9] * 5
    assert [int(5 * time) for _, time in sorted(zip(seen, timesteps, strict=True))] == [0, 1, 2, 3, 4] * 3


def test_without_anything_held_out_there_is_no_validation():
    samples = ToySamples()
    samples.samples = [ToySample((4, 4))]
    with pytest.raises(ValueError, match="nothing is held out"):
        validator(ToyLearner(), samples)
