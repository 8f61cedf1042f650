"""Averages follow their formula, and go on from what was saved."""

import torch
from torch import nn

from training.ema import Ema, decay_at


def moved(parameter, value):
    with torch.no_grad():
        parameter.fill_(value)


def test_averages_are_those_of_the_formula():
    weight = nn.Parameter(torch.tensor([8.0]))
    ema = Ema({"w": weight}, decay=0.2)
    expected = 8.0
    for step, value in enumerate((4.0, 2.0, 6.0)):
        moved(weight, value)
        ema.update(step)
        decay = min(0.2, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(ema.state()["w"], torch.tensor([expected]))


def test_memory_is_short_first_and_never_longer_than_the_recipe_says():
    assert [decay_at(step, 0.99) for step in (0, 8, 10_000)] == [0.1, 0.5, 0.99]


def test_averages_are_in_place_inside_and_the_exact_weights_outside():
    weight = nn.Parameter(torch.randn(3))
    ema = Ema({"w": weight}, decay=0.9)
    before = weight.detach().clone()
    moved(weight, 5.0)
    with ema.in_place():
        assert torch.equal(weight.detach(), before)
    assert torch.equal(weight.detach(), torch.full((3,), 5.0))


def test_what_was_saved_goes_on_the_same():
    def averaged(*, is_interrupted):
        weight = nn.Parameter(torch.tensor([1.0, -2.0]))
        ema = Ema({"w": weight}, decay=0.9)
        for step in range(6):
            if is_interrupted and step == 3:
                saved = {name: tensor.clone() for name, tensor in ema.state().items()}
                ema = Ema({"w": nn.Parameter(torch.zeros(2))}, decay=0.9)
                ema.load_state(saved)
                ema._parameters = [weight.detach()]
            moved(weight, float(step))
            ema.update(step)
        return ema.state()["w"]

    assert torch.equal(averaged(is_interrupted=True), averaged(is_interrupted=False))
