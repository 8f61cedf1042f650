"""Checkpoint: all that a training needs to go on as if nothing had happened, in one file that is whole or not there.

A safetensors file; what is no tensor is one JSON text in its metadata (with several, their order would be chance).
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import structlog
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipelines.work import WorkRefused

FORMAT = 1
METADATA = "checkpoint"
Curve = list[tuple[int, float]]

log = structlog.get_logger("darkroom.training")


@dataclass(frozen=True, slots=True)
class Identity:
    """What decides a training's weights, besides its code. With another one there is nothing to go on with."""

    recipe_sha256: str  # of the recipe, the number of steps and the seed
    data_sha256: str
    base_sha256: str

    def differences(self, other: Self) -> list[str]:
        """What differs, in words."""
        words = {"recipe_sha256": "another recipe", "data_sha256": "other data", "base_sha256": "another base model"}
        return [word for name, word in words.items() if getattr(self, name) != getattr(other, name)]


@dataclass(frozen=True, slots=True)
class Environment:
    """What weights may depend on to the last bit."""

    torch_version: str
    num_threads: int
    device: str

    @classmethod
    def here(cls, device: torch.device) -> Self:
        """Of this process."""
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return cls(torch.__version__, torch.get_num_threads(), name)


@dataclass(slots=True)
class Standing:
    """How far a training is, without its tensors."""

    step: int = 0  # the next one
    loss: Curve = field(default_factory=list)  # after so many steps, mean of those since the point before
    validation_loss: Curve = field(default_factory=list)  # that after 0 steps is the base model's
    best_step: int = 0
    num_worse: int = 0  # validations in a row that were no better than the best
    spent_s: float = 0.0  # of training, in all processes together; the one thing here that chance may change

    @property
    def best_loss(self) -> float:
        """Of the validations so far, without the base model's."""
        return min((loss for step, loss in self.validation_loss if step > 0), default=math.inf)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        curves = {name: [(int(s), float(v)) for s, v in fields[name]] for name in ("loss", "validation_loss")}
        return cls(**{**fields, **curves})


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A training between two steps."""

    standing: Standing
    tensors: Mapping[str, Tensor]  # "weights/…", "optimizer/…", "ema/…", "best/…", "loss"

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors below a name, without it."""
        return {
            key.removeprefix(f"{name}/"): value for key, value in self.tensors.items() if key.startswith(f"{name}/")
        }


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """Where one training's checkpoint lies, and what has to be the same for it to count."""

    path: Path
    identity: Identity
    environment: Environment

    def save(self, checkpoint: Checkpoint) -> None:
        """Under a name of its own first, then in its place: whoever reads sees the one before or this one, whole."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
        about = {
            "format": FORMAT,
            "identity": asdict(self.identity),
            "environment": asdict(self.environment),
            "standing": asdict(checkpoint.standing),
            "tensors_sha256": tensors_sha256(tensors),
        }
        partial = self.path.with_name(f"{self.path.name}.partial")
        save_file(tensors, partial, {METADATA: json.dumps(about, sort_keys=True, allow_nan=False)})
        _sync(partial)
        partial.replace(self.path)
        _sync(self.path.parent)

    def load(self) -> Checkpoint | None:
        """What was saved last; None where nothing was, or where it is damaged: then a training begins anew.

        Raises WorkRefused("resume_refused") for a checkpoint of something else.
        """
        try:
            about, tensors = _read(self.path)
            made_for, made_in = Identity(**about["identity"]), Environment(**about["environment"])
            standing = Standing.from_dict(about["standing"])
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("checkpoint_damaged", error=str(error))
            return None
        if differences := self.identity.differences(made_for):
            message = f"The training cannot go on: its checkpoint was made with {_and(differences)}."
            raise WorkRefused("resume_refused", message)
        if made_in != self.environment:
            log.warning("checkpoint_from_elsewhere", made_in=asdict(made_in), here=asdict(self.environment))
        return Checkpoint(standing, tensors)


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Of their names, types, shapes and bytes; of tensors on the CPU."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        about: dict[str, Any] = json.loads((file.metadata() or {})[METADATA])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    if about["format"] != FORMAT:
        raise ValueError(f"it has format {about['format']}, not {FORMAT}")
    if about["tensors_sha256"] != tensors_sha256(tensors):
        raise ValueError("its tensors are not those that were saved")
    return about, tensors


def _sync(path: Path) -> None:
    """Waits until the disk has it; of a folder, the names in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _and(words: list[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
