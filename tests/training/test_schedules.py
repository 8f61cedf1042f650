"""Learning rates, step by step."""

import pytest

from training.recipe import OptimizerPart
from training.schedules import rate_factor


def factors(schedule, *, warmup, steps):
    part = OptimizerPart(schedule=schedule, warmup_steps=warmup)
    return [rate_factor(part, step=step, steps=steps) for step in range(steps)]


def test_it_warms_up_in_a_line_and_its_first_step_learns():
    assert factors("constant", warmup=4, steps=7) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]


def test_linear_falls_from_one_towards_nothing():
    assert factors("linear", warmup=1, steps=5) == [1.0, 1.0, 0.75, 0.5, 0.25]


def test_cosine_is_at_half_in_the_middle():
    assert factors("cosine", warmup=0, steps=4) == pytest.approx([1.0, 0.8535534, 0.5, 0.1464466])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_a_training_that_ends_within_its_warm_up_never_learns_faster_than_told(schedule):
    assert factors(schedule, warmup=10, steps=5) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert factors(schedule, warmup=5, steps=5) == [0.2, 0.4, 0.6, 0.8, 1.0]
