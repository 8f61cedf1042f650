"""A safetensors file → LoraWeights. The model's modules decide what fits; whatever does not is refused by its name."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError, safe_open
from torch import nn

from models.adapter_keys import ENDINGS, Role
from models.errors import AdapterError
from models.lora_files.dora import measure_lengths
from models.lora_files.names import Target, comparable, target_names
from models.lora_files.weights import LoraLayer, LoraWeights
from models.spec import Family

SUFFIXES: dict[str, Role] = dict(ENDINGS)
OTHER_KINDS = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "lora_mid": "a Tucker decomposition",
    "lora_B.bias": "a LoRA with biases",
    ".diff": "a full difference",
}
# What diffusers' save_lora_weights() puts into the file's header.
METADATA_KEY = "lora_adapter_metadata"


@dataclass(slots=True)
class _Entry:
    """One adapted module as the file has it; `keys` remembers how the file names each tensor."""

    targets: tuple[Target, ...]
    tensors: dict[Role, torch.Tensor] = field(default_factory=dict)
    keys: dict[Role, str] = field(default_factory=dict)

    @property
    def component(self) -> str:
        return self.targets[0].name.partition(".")[0]


class _Refusals:
    """Collects what is wrong with a file, so that one error can name the first and count the rest."""

    def __init__(self) -> None:
        self._first = ""
        self._count = 0

    def add(self, key: str, problem: str) -> None:
        self._first = self._first or f"{key!r} {problem}"
        self._count += 1

    def raise_if_any(self) -> None:
        if self._count:
            more = f"; {self._count - 1} more of its keys are refused" if self._count > 1 else ""
            raise AdapterError(f"The adapter does not fit this model: {self._first}{more}.")


def read_lora(path: Path, pipeline: DiffusionPipeline, family: Family) -> LoraWeights:
    """The adapter in a file, in float32 on the CPU; AdapterError names the first key that cannot be used."""
    tensors, metadata = _read_tensors(path)
    refusals = _Refusals()
    entries = _match(tensors, target_names(pipeline, family), refusals)
    _refuse_partial_doras(entries, metadata, refusals)
    refusals.raise_if_any()
    layers: dict[str, LoraLayer] = {}
    for entry in entries:
        for name, layer in _layers_of(entry, metadata, refusals):
            if name in layers:
                refusals.add(entry.keys["down"], "adapts a module that another key adapts as well")
            layers[name] = layer
    refusals.raise_if_any()
    if not layers:
        raise AdapterError("The adapter changes nothing: the file has no LoRA layers.")
    return LoraWeights(layers)


def _read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            # Copied: what safetensors hands out is a view of the file.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 - not a dict
            header = file.metadata() or {}
        metadata = json.loads(header.get(METADATA_KEY) or "{}")
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"The adapter is not a safetensors file: {error}") from error
    except ValueError as error:
        raise AdapterError(f"The adapter's header is damaged: {METADATA_KEY} is not JSON ({error})") from error
    if not isinstance(metadata, dict):
        raise AdapterError(f"The adapter's header is damaged: {METADATA_KEY} is not an object")
    return tensors, metadata


def _match(tensors: dict[str, torch.Tensor], names: dict[str, tuple[Target, ...]], refusals: _Refusals) -> list[_Entry]:
    """The tensors of each module side by side; names that mean nothing here are refused."""
    entries: dict[str, _Entry] = {}
    for key, tensor in tensors.items():
        kind = next((kind for mark, kind in OTHER_KINDS.items() if mark in key), None)
        suffix = next((suffix for suffix in SUFFIXES if key.endswith(suffix)), None)
        if kind is not None or suffix is None:
            refusals.add(key, f"belongs to {kind}, which is not supported" if kind else "is no part of a LoRA")
            continue
        name = comparable(key.removesuffix(suffix))
        if name not in names:
            refusals.add(key, "matches no module of this model that can be adapted")
            continue
        entry = entries.setdefault(name, _Entry(names[name]))
        role = SUFFIXES[suffix]
        if role in entry.tensors:
            refusals.add(key, f"says the same as {entry.keys[role]!r}")
        entry.tensors[role], entry.keys[role] = tensor, key
    for entry in entries.values():
        missing = {"down", "up"} - entry.tensors.keys()
        if missing:
            refusals.add(
                next(iter(entry.keys.values())), f"stands alone: its {' and '.join(sorted(missing))} is missing"
            )
    return list(entries.values())


def _refuse_partial_doras(entries: list[_Entry], metadata: dict[str, Any], refusals: _Refusals) -> None:
    """A component is adapted by a DoRA or by a LoRA; where a magnitude is missing, nobody knows what was meant."""
    doras = {entry.component for entry in entries if "magnitude" in entry.tensors}
    for entry in entries:
        is_dora = entry.component in doras or bool(metadata.get(f"{entry.component}.use_dora"))
        if is_dora and "magnitude" not in entry.tensors:
            refusals.add(next(iter(entry.keys.values())), "belongs to a DoRA, but has no magnitude")


def _layers_of(entry: _Entry, metadata: dict[str, Any], refusals: _Refusals) -> list[tuple[str, LoraLayer]]:
    if problems := _problems(entry):
        for key, problem in problems.items():
            refusals.add(key, problem)
        return []
    down, up = entry.tensors["down"].float(), entry.tensors["up"].float()
    magnitude = entry.tensors["magnitude"].float().flatten() if "magnitude" in entry.tensors else None
    layers = []
    for target in entry.targets:
        scale = _scale(entry, target, metadata)
        own_down, own_up = down, torch.cat([up[start:stop] for start, stop in target.outputs]) * scale
        if len(entry.targets) > 1 and magnitude is None:
            # Fused matrices are often trained apart, as blocks on a diagonal: keep this module's block only.
            is_used = own_up.flatten(1).any(dim=0)
            own_down, own_up = down[is_used], own_up[:, is_used]
        lengths = None
        if magnitude is not None:
            own_magnitude = torch.cat([magnitude[start:stop] for start, stop in target.outputs])
            lengths = measure_lengths(own_magnitude, target.module, own_down, own_up)
        if own_down.shape[0]:
            layers.append((target.name, _fit(own_down, own_up, lengths, target.module)))
    return layers


def _problems(entry: _Entry) -> dict[str, str]:
    """What is wrong with a module's tensors, by key; they must be finite and of the shapes that the module needs."""
    problems: dict[str, str] = {}
    for role, tensor in entry.tensors.items():
        if not tensor.is_floating_point() and role != "alpha":
            problems[entry.keys[role]] = f"holds {str(tensor.dtype).removeprefix('torch.')}, not real numbers"
        elif not bool(torch.isfinite(tensor.float()).all()):
            problems[entry.keys[role]] = "holds numbers that are not finite"
    down, up = entry.tensors["down"], entry.tensors["up"]
    inputs = entry.targets[0].module.weight.shape[1:]
    outputs = sum(stop - start for target in entry.targets for start, stop in target.outputs)
    rank = down.shape[0] if down.ndim else 0
    if rank == 0:
        problems[entry.keys["down"]] = "has rank 0"
    elif _bare(down.shape[1:]) != _bare(inputs):
        problems[entry.keys["down"]] = f"has shape {list(down.shape)}, but the module takes {list(inputs)}"
    elif _bare(up.shape) != _bare((outputs, rank)):
        problems[entry.keys["up"]] = f"has shape {list(up.shape)}, but should have [{outputs}, {rank}]"
    if "alpha" in entry.tensors and entry.tensors["alpha"].numel() != 1:
        problems[entry.keys["alpha"]] = "is not one number"
    if "magnitude" in entry.tensors and not _is_of_outputs(entry, outputs):
        shape = list(entry.tensors["magnitude"].shape)
        problems[entry.keys["magnitude"]] = (
            f"has shape {shape}, but only a magnitude for each of {outputs} outputs is used"
        )
    return problems


def _is_of_outputs(entry: _Entry, outputs: int) -> bool:
    """Whether magnitudes are the outputs'. LyCORIS also has a kind of the inputs', [1, in]: other mathematics."""
    shape = entry.tensors["magnitude"].shape
    # PEFT writes a convolution's as [1, out, 1, 1].
    is_peft_convolution = "lora_magnitude_vector" in entry.keys["magnitude"] and len(shape) == 4 and shape[0] == 1
    return _bare(shape[1:] if is_peft_convolution else shape) == _bare((outputs,))


def _bare(shape: Sequence[int]) -> tuple[int, ...]:
    """Without the ones at its end: trainers write a 1 × 1 convolution as a matrix, and the other way round."""
    sizes = tuple(shape)
    while sizes and sizes[-1] == 1:
        sizes = sizes[:-1]
    return sizes


def _scale(entry: _Entry, target: Target, metadata: dict[str, Any]) -> float:
    """alpha / rank: from the module's own tensor, else from the header, else 1."""
    rank = entry.tensors["down"].shape[0]
    if "alpha" in entry.tensors:
        return float(entry.tensors["alpha"]) / rank
    component, _, path = target.name.partition(".")
    try:
        alpha = float(metadata.get(f"{component}.lora_alpha", rank))
        for pattern, own_alpha in dict(metadata.get(f"{component}.alpha_pattern") or {}).items():
            # Read as a name, not as the regular expression that PEFT would make of it: the file may come from anyone.
            name = pattern.removeprefix("^")
            if f".{path}".endswith(f".{name}") or name.endswith(f".{path}"):
                alpha = float(own_alpha)
        if not math.isfinite(alpha):
            raise ValueError(alpha)
    except (TypeError, ValueError) as error:
        raise AdapterError(f"The adapter's header is damaged: alpha of {target.name} is not a number") from error
    return alpha / (math.sqrt(rank) if metadata.get(f"{component}.use_rslora") else rank)


def _fit(
    down: torch.Tensor, up: torch.Tensor, lengths: torch.Tensor | None, module: nn.Linear | nn.Conv2d
) -> LoraLayer:
    rank, outputs = down.shape[0], up.shape[0]
    tail = (1, 1) if isinstance(module, nn.Conv2d) else ()
    return LoraLayer(down.reshape(rank, *module.weight.shape[1:]), up.reshape(outputs, rank, *tail), lengths)
