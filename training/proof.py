"""Proof that a file is the adapter: plain diffusers loads all of it, and makes the very pictures the adapter made.

The plain pipeline's adapted components are new modules around the same weights: nothing of the training is in them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import init_empty_weights
from diffusers import ModelMixin
from peft import get_peft_model_state_dict
from PIL import Image
from torch import Tensor, equal, nn

from models.errors import AdapterError
from models.lora_files import read_lora
from models.safetensors_file import read_header
from models.spec import ModelSpec
from training.sampling import Wish, batches, make_pictures, rebuilt

# Levels of 255. On a CPU in float32 there is no difference; elsewhere two runs of the same kernels may round apart.
MAX_MEAN_DIFFERENCE, MAX_DIFFERENCE = 1.0, 2.0
# What diffusers, transformers and PEFT raise at a file that does not fit.
UNLOADABLE = (ValueError, KeyError, TypeError, RuntimeError, AttributeError, IndexError)


class ProofError(Exception):
    """The file is not the adapter that was trained; it must not be published."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found to be so."""

    num_tensors: int
    num_pictures: int
    mean_difference: float  # levels of 255
    max_difference: float


def prove(
    pipeline: Any,  # noqa: ANN401 - diffusers is untyped
    file: Path,
    spec: ModelSpec,
    *,
    wishes: Sequence[Wish],
    pictures: Sequence[Image.Image],
    width_px: int,
    height_px: int,
) -> Proof:
    """`pictures`: what make_pictures() gave for the wishes with the adapter that is in the pipeline now.

    The first batch of them is made again. ProofError says what is wrong with the file.
    """
    fresh = rebuilt(pipeline, **{name: _plain(part) for name, part in adapted_parts(pipeline).items()})
    try:
        read_lora(file, fresh, spec.family)
        fresh.load_lora_weights(str(file.parent), weight_name=file.name, local_files_only=True)
    except (AdapterError, *UNLOADABLE) as error:
        raise ProofError(f"The adapter's file cannot be loaded: {error}") from error
    trained, loaded = _tensors(pipeline), _tensors(fresh)
    _check_keys({_bare(tensor.key) for tensor in read_header(file).tensors}, trained, loaded)
    batch = next(iter(batches(wishes, width_px, height_px)))
    again = make_pictures(fresh, spec, batch, width_px=width_px, height_px=height_px)
    mean, most = _differences(pictures[: len(batch)], again)
    if mean > MAX_MEAN_DIFFERENCE or most > MAX_DIFFERENCE:
        raise ProofError(
            f"Loaded again, the adapter makes other pictures: they differ by {mean:.2f} of 255 levels in the mean "
            f"and by {most:.0f} at most."
        )
    return Proof(len(trained), len(batch), mean, most)


def adapted_parts(pipeline: Any) -> dict[str, Any]:  # noqa: ANN401
    """The components that carry an adapter."""
    return {name: part for name, part in pipeline.components.items() if getattr(part, "peft_config", None)}


def _plain(part: Any) -> nn.Module:  # noqa: ANN401
    """A component as it was before it was adapted: a new module of its class around the very same weights."""
    with init_empty_weights():
        fresh = type(part).from_config(part.config) if isinstance(part, ModelMixin) else type(part)(part.config)
    weights = {name.replace(".base_layer.", "."): tensor for name, tensor in part.state_dict().items()}
    fresh.load_state_dict({name: weights[name] for name in fresh.state_dict()}, assign=True)
    plain: nn.Module = fresh.to(part.device).eval()
    return plain


def _tensors(pipeline: Any) -> dict[str, Tensor]:  # noqa: ANN401
    """The adapter's, by their names in a file, bare of what files differ in."""
    return {
        _bare(f"{component}.{key}"): tensor
        for component, part in adapted_parts(pipeline).items()
        for key, tensor in get_peft_model_state_dict(part, adapter_name=next(iter(part.peft_config))).items()
    }


def _bare(key: str) -> str:
    """Without the level that transformers 5 has dropped, and files have kept."""
    return key.replace(".text_model.", ".")


def _check_keys(in_file: set[str], trained: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> None:
    for keys, problem in (
        (trained.keys() - in_file, "is missing from the adapter's file"),
        (in_file - trained.keys(), "is in the adapter's file, but was not trained"),
        (in_file ^ loaded.keys(), "is not both in the adapter's file and in what diffusers loaded from it"),
    ):
        if keys:
            raise ProofError(f"{min(keys)} {problem}{f', and so for {len(keys) - 1} more' if len(keys) > 1 else ''}.")
    for key, tensor in trained.items():
        if not equal(tensor.to(loaded[key].dtype), loaded[key]):
            raise ProofError(f"{key} is not loaded with the values that were trained.")


def _differences(first: Sequence[Image.Image], second: Sequence[Image.Image]) -> tuple[float, float]:
    """Mean and largest, in levels of 255."""
    pixels = [np.stack([np.asarray(picture, dtype=np.int16) for picture in pictures]) for pictures in (first, second)]
    difference = np.abs(pixels[0] - pixels[1])
    return float(difference.mean()), float(difference.max())
