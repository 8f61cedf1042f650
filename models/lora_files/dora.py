"""DoRA: a module's weights W + s·up·down are brought, output by output, to a length of their own.

y = bias + gain ⊙ (W x + s·up·down x), gain = magnitude / ‖W + s·up·down‖, the length over all inputs of an output
(Liu and others, "DoRA: Weight-Decomposed Low-Rank Adaptation", arXiv 2402.09353; peft.tuners.lora.dora). The length
depends on the scale s that a request asks for, and is never measured again for that:
‖w + s·a‖² = ‖w‖² + 2s·w·a + s²·‖a‖².

I inputs (of a convolution: of all its kernel), O outputs, R rank
"""

import torch
from torch import Tensor, nn

NUM_TERMS = 4  # the magnitude, ‖w‖², 2·w·a, ‖a‖²


def measure_lengths(magnitude_O: Tensor, module: nn.Linear | nn.Conv2d, down: Tensor, up: Tensor) -> Tensor:
    """[4, O] in float32 on the CPU: all that gain() must know, measured where the module's weights are."""
    weight_OI = module.weight.detach().flatten(1).float()
    down_RI, up_OR = (matrix.flatten(1).to(weight_OI.device) for matrix in (down, up))
    base_O = weight_OI.square().sum(1)
    cross_O = 2 * (up_OR * (weight_OI @ down_RI.T)).sum(1)
    added_O = (up_OR * (up_OR @ (down_RI @ down_RI.T))).sum(1)
    return torch.stack([magnitude_O.to(weight_OI.device), base_O, cross_O, added_O]).cpu()


def gain(lengths_4O: Tensor, scale: float) -> Tensor:
    """[O]: what the whole output, its bias apart, is multiplied by at this scale."""
    magnitude_O, base_O, cross_O, added_O = lengths_4O
    squared_O = base_O + scale * (cross_O + scale * added_O)
    # Weights that are all zero have no direction to keep, and nothing to multiply.
    return torch.where(squared_O > 0, magnitude_O * squared_O.rsqrt(), 1.0)
