"""Muon: steps of even size in every direction, a fair split of the weights, and a state that resumes."""

import pytest
import torch
from torch import nn

from training.pretrain.muon import Muon, orthogonalise, split_weights


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (32, 32)])
def test_singular_values_come_near_one(shape: tuple[int, int]):
    torch.manual_seed(0)
    # Far from even before: the largest singular value is hundreds of times the smallest.
    matrix = torch.randn(shape) * torch.logspace(0, -2, shape[1])
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert values.max() < 1.4
    assert values.median() > 0.6


def test_directions_are_kept():
    left, _, right = torch.linalg.svd(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))
    matrix = left @ torch.diag(torch.linspace(1.0, 2.0, 8)) @ right
    assert nn.functional.cosine_similarity(orthogonalise(matrix).ravel(), (left @ right).ravel(), dim=0) > 0.95


def test_steps_bring_a_convolution_to_its_target():
    torch.manual_seed(0)
    layer, target = nn.Conv2d(4, 8, 3), nn.Conv2d(4, 8, 3)
    target.load_state_dict({**target.state_dict(), "bias": layer.bias.detach()})
    optimizer, inputs = Muon([layer.weight], lr=0.02), torch.randn(32, 4, 8, 8)
    losses = []
    for _ in range(60):
        loss = nn.functional.mse_loss(layer(inputs), target(inputs).detach())
        layer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_weights_are_split_without_loss_or_overlap():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    hidden, others = split_weights(model, [model[0], model[3]])
    assert [p.shape for p in hidden] == [(4, 4)]
    assert {id(p) for p in (*hidden, *others)} == {id(p) for p in model.parameters()}
    assert len(hidden) + len(others) == len(list(model.parameters()))


def test_a_restored_optimizer_takes_the_same_step():
    def one_step(optimizer: Muon, weight: nn.Parameter):
        weight.grad = torch.ones_like(weight).tril()
        optimizer.step()

    weight = nn.Parameter(torch.eye(4))
    optimizer = Muon([weight], lr=0.1)
    one_step(optimizer, weight)
    copy = nn.Parameter(weight.detach().clone())
    restored = Muon([copy], lr=0.1)
    restored.load_state_dict(optimizer.state_dict())
    one_step(optimizer, weight)
    one_step(restored, copy)
    assert torch.equal(weight, copy)
