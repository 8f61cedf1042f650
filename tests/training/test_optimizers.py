"""What an optimiser remembers goes on in another process; what cannot be used is refused by name."""

import pytest
import torch
from torch import nn

from training.optimizers import build_optimizer, load_optimizer_state, optimizer_state, set_rate
from training.recipe import OptimizerPart, RecipeError


def two_parameters():
    chance = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(3, 4, generator=chance)) for name in ("a", "b")}


def groups_of(parameters):
    return [("denoiser", [parameters["b"]]), ("text_encoder", [parameters["a"]])]


def walk(optimizer, parameters, steps):
    for step in steps:
        for i, parameter in enumerate(parameters.values()):
            parameter.grad = torch.randn(3, 4, generator=torch.Generator().manual_seed(10 * step + i))
        optimizer.step()


class Counting(torch.optim.SGD):
    """Keeps Python numbers, as Prodigy and bitsandbytes do: in a parameter's state and in its group."""

    def __init__(self, groups):
        super().__init__(groups, lr=1.0)
        for group in self.param_groups:
            group["d"] = 1e-6

    def step(self, closure=None):
        for group in self.param_groups:
            group["d"] = group["d"] * 1.7 + 0.1
            for parameter in group["params"]:
                state = self.state[parameter]
                state["count"] = state.get("count", 0) + 1
                with torch.no_grad():
                    parameter.sub_(parameter.grad * group["d"] / state["count"])


def fused_adamw(parameters):
    return build_optimizer(OptimizerPart(learning_rate=0.1), groups_of(parameters))


def counting(parameters):
    return Counting([{"name": name, "params": members} for name, members in groups_of(parameters)])


@pytest.mark.parametrize("build", [fused_adamw, counting])
def test_what_it_remembers_goes_on_to_the_bit_in_another_process(build):
    straight = two_parameters()
    walk(build(straight), straight, range(7))
    first = two_parameters()
    optimizer = build(first)
    walk(optimizer, first, range(3))
    saved = {name: tensor.clone() for name, tensor in optimizer_state(optimizer, first).items()}
    second = two_parameters()
    for name, parameter in second.items():
        parameter.data.copy_(first[name].data)
    again = build(second)
    load_optimizer_state(again, second, saved)
    walk(again, second, range(3, 7))
    assert all(torch.equal(second[name], straight[name]) for name in straight)


def test_what_it_keeps_as_python_numbers_comes_back_as_such():
    parameters = two_parameters()
    optimizer = counting(parameters)
    walk(optimizer, parameters, range(3))
    again = counting(parameters)
    load_optimizer_state(again, parameters, optimizer_state(optimizer, parameters))
    # Their own code compares and multiplies these outside of torch.
    assert again.param_groups[0]["d"] == optimizer.param_groups[0]["d"]
    assert type(again.param_groups[0]["d"]) is float
    assert type(again.state[parameters["a"]]["count"]) is int


def test_before_its_first_step_it_remembers_nothing_and_that_loads_too():
    parameters = two_parameters()
    optimizer = fused_adamw(parameters)
    load_optimizer_state(optimizer, parameters, optimizer_state(optimizer, parameters))
    assert not optimizer.state


def test_what_it_remembers_is_named_after_the_parameter_not_its_place():
    parameters = two_parameters()
    optimizer = fused_adamw(parameters)
    walk(optimizer, parameters, range(1))
    saved = optimizer_state(optimizer, parameters)
    assert {name.split("/")[0] for name in saved} == {"a", "b", "group denoiser", "group text_encoder"}
    assert torch.equal(saved["a/exp_avg"], optimizer.state[parameters["a"]]["exp_avg"])


def test_text_encoders_have_their_own_rate_and_the_schedule_moves_both():
    part = OptimizerPart(learning_rate=0.4, text_encoder_learning_rate=0.1)
    optimizer = build_optimizer(part, groups_of(two_parameters()))
    set_rate(optimizer, 0.5)
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == {"denoiser": 0.2, "text_encoder": 0.05}


def test_without_a_rate_of_their_own_text_encoders_learn_as_the_others():
    optimizer = build_optimizer(OptimizerPart(learning_rate=0.4), groups_of(two_parameters()))
    assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.4]


def test_adamw_is_fused_where_the_device_has_it():
    assert fused_adamw(two_parameters()).defaults["fused"] is True


@pytest.mark.parametrize(("name", "package"), [("adamw8bit", "bitsandbytes"), ("prodigy", "prodigyopt")])
def test_an_optimizer_whose_package_is_missing_is_refused_by_name(name, package, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(RecipeError, match=f"{name} needs the package {package}"):
        build_optimizer(OptimizerPart(name=name), groups_of(two_parameters()))
