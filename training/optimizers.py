"""The optimisers that a recipe may name, and what they remember as named tensors: names outlive a process."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.recipe import OptimizerPart, RecipeError

Groups = list[dict[str, Any]]
NUMBER = "number:"  # before the key of what an optimiser keeps as a Python number
FUSED_ON = ("cpu", "cuda")  # on a CPU as exact from run to run as the plain one, at a sixth of its processor time


def build_optimizer(part: OptimizerPart, groups: Sequence[tuple[str, Sequence[nn.Parameter]]]) -> Optimizer:
    """For a learner's parameter_groups(). Each group keeps its name, and its learning rate as "peak_lr" too."""
    rates = {"text_encoder": part.text_encoder_learning_rate or part.learning_rate}
    named: Groups = []
    for name, parameters in groups:
        rate = rates.get(name, part.learning_rate)
        named.append({"name": name, "params": list(parameters), "lr": rate, "peak_lr": rate})
    return OPTIMIZERS[part.name](part, named)


def set_rate(optimizer: Optimizer, factor: float) -> None:
    """The learning rates of the coming step."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def optimizer_state(optimizer: Optimizer, names: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """All that it remembers, by "parameter/key" and "group/key"; not copied where it is a tensor already."""
    flat: dict[str, Tensor] = {}
    for name, parameter in names.items():
        flat |= _flatten(name, optimizer.state.get(parameter, {}))
    for group in optimizer.param_groups:
        flat |= _flatten(f"group {group['name']}", {k: v for k, v in group.items() if k not in ("params", "name")})
    return flat


def load_optimizer_state(optimizer: Optimizer, names: Mapping[str, nn.Parameter], flat: Mapping[str, Tensor]) -> None:
    """Inverse of optimizer_state(), into one built from the same recipe."""
    entries: dict[str, dict[str, Any]] = {}
    for address, tensor in flat.items():
        owner, _, key = address.rpartition("/")
        entries.setdefault(owner, {})[key.removeprefix(NUMBER)] = tensor.item() if key.startswith(NUMBER) else tensor
    name_of = {parameter: name for name, parameter in names.items()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    whole = optimizer.state_dict()
    remembered = {i: entries.get(name_of[parameter]) for i, parameter in enumerate(parameters)}
    whole["state"] = {i: state for i, state in remembered.items() if state is not None}
    for group in whole["param_groups"]:
        group.update(entries[f"group {group['name']}"])
    optimizer.load_state_dict(whole)


def _flatten(owner: str, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors as they are, numbers as tensors that hold them exactly; what is neither comes from the recipe."""
    flat: dict[str, Tensor] = {}
    for key, value in state.items():
        if isinstance(value, Tensor):
            flat[f"{owner}/{key}"] = value
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            dtype = torch.int64 if isinstance(value, int) else torch.float64
            flat[f"{owner}/{NUMBER}{key}"] = torch.tensor(value, dtype=dtype)
    return flat


def _adamw(part: OptimizerPart, groups: Groups) -> Optimizer:
    is_fused = groups[0]["params"][0].device.type in FUSED_ON
    return torch.optim.AdamW(groups, **_adam_terms(part), fused=is_fused, foreach=None if is_fused else True)


def _adamw8bit(part: OptimizerPart, groups: Groups) -> Optimizer:
    optimizer: Optimizer = _optional("bitsandbytes", part).optim.AdamW8bit(groups, **_adam_terms(part))
    return optimizer


def _prodigy(part: OptimizerPart, groups: Groups) -> Optimizer:
    # It finds the step size itself: a learning rate of 1 is usual.
    terms = _adam_terms(part) | {"decouple": True, "use_bias_correction": True}
    optimizer: Optimizer = _optional("prodigyopt", part).Prodigy(groups, **terms)
    return optimizer


def _adam_terms(part: OptimizerPart) -> dict[str, Any]:
    return {"betas": (part.beta1, part.beta2), "eps": part.epsilon, "weight_decay": part.weight_decay}


def _optional(package: str, part: OptimizerPart) -> Any:  # noqa: ANN401 - a module
    try:
        return importlib.import_module(package)
    except ImportError as error:
        message = f"The optimizer {part.name} needs the package {package}, which is not installed here; use adamw."
        raise RecipeError(message) from error


OPTIMIZERS: dict[str, Callable[[OptimizerPart, Groups], Optimizer]] = {
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
    "prodigy": _prodigy,
}
