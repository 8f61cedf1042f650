"""The learning rate as a function of the step alone, so that there is nothing to save."""

import math

from training.recipe import OptimizerPart


def rate_factor(part: OptimizerPart, *, step: int, steps: int) -> float:
    """What the learning rate is multiplied by in step 0 … steps - 1: up to 1 in a line, then as the schedule says.

    Neither end is 0, so that no step is wasted.
    """
    if step < part.warmup_steps:
        return (step + 1) / part.warmup_steps
    done = (step - part.warmup_steps) / (steps - part.warmup_steps)
    match part.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - done
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
