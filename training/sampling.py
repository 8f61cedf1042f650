"""Pictures on the way and for proof, by the very pipeline that is trained upon. A training cannot tell they were made.

A picture is what a server would make of the adapter at that moment: the adapter is rounded to the model's precision.
"""

import hashlib
import io
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from models.spec import ModelSpec
from pipelines.families.base import fresh_scheduler
from pipelines.families.flux import MAX_TEXT_TOKENS_DISTILLED
from training.recipe import Recipe
from training.targets import adapted_layers, switched_off

MAX_BATCH_PX = 1_048_576
MAX_BATCH = 4
NUM_SEEDS = 2**63  # those that a request may name

Wish = tuple[str, int]  # prompt, seed


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture that was kept, and how to make it again."""

    file: str
    prompt: str
    seed: int
    step: int  # 0: by the base model alone
    width_px: int
    height_px: int
    sha256: str  # of the file, hex


def sample_wishes(recipe: Recipe, trigger: str, seed: int, count: int) -> list[Wish]:
    """The recipe's prompts in turn, each with a seed of its own."""
    prompts = [prompt.replace("{trigger}", trigger) for prompt in recipe.samples.prompts]
    return [(prompts[index % len(prompts)], (seed + index) % NUM_SEEDS) for index in range(count)]


def make_pictures(
    pipeline: Any,  # noqa: ANN401 - diffusers is untyped
    spec: ModelSpec,
    prompts_and_seeds: Sequence[Wish],
    *,
    width_px: int,
    height_px: int,
) -> list[Image.Image]:
    """One for each wish, with the steps, the guidance, the scheduler and the negative prompt of the model's entry."""
    maker = rebuilt(pipeline, scheduler=fresh_scheduler(pipeline.scheduler, spec.family, spec.defaults.scheduler))
    pictures: list[Image.Image] = []
    with _undisturbed(pipeline), _as_served(pipeline):
        for batch in batches(prompts_and_seeds, width_px, height_px):
            made = maker(
                prompt=[prompt for prompt, _ in batch],
                generator=[torch.Generator("cpu").manual_seed(seed) for _, seed in batch],
                width=width_px,
                height=height_px,
                **_options(pipeline, spec, len(batch)),
            )
            pictures += made.images
    return pictures


def batches(wishes: Sequence[Wish], width_px: int, height_px: int) -> Iterator[Sequence[Wish]]:
    """Those that are made together. A picture's last bit may depend on its company, so this is always the same."""
    size = max(1, min(MAX_BATCH, MAX_BATCH_PX // (width_px * height_px)))
    for start in range(0, len(wishes), size):
        yield wishes[start : start + size]


def without_adapter(pipeline: Any) -> AbstractContextManager[None]:  # noqa: ANN401
    """The base model alone."""
    return switched_off(_layers(pipeline))


def rebuilt(pipeline: Any, **parts: Any) -> Any:  # noqa: ANN401
    """A plain pipeline around the same parts, but for those named here; without what blackens or marks pictures."""
    accepted = signature(type(pipeline).__init__).parameters
    own = dict(pipeline.components) | parts
    if "safety_checker" in own:
        own["safety_checker"] = None
    options = {name: value for name, value in pipeline.config.items() if name in accepted and name not in own}
    options |= {name: False for name in ("requires_safety_checker", "add_watermarker") if name in accepted}
    fresh = type(pipeline)(**own, **options)
    fresh.set_progress_bar_config(disable=True)
    return fresh


def keep_picture(picture: Image.Image, folder: Path, file: str, wish: Wish, step: int) -> Shown:
    """Write it to folder/file."""
    sha256 = save_png(picture, folder / file)
    return Shown(file, *wish, step, picture.width, picture.height, sha256)


def save_png(picture: Image.Image, path: Path) -> str:
    """The file's SHA-256. It appears whole or not at all; equal pixels are equal bytes."""
    memory = io.BytesIO()
    picture.save(memory, format="PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_bytes(memory.getvalue())
    os.replace(unfinished, path)
    return hashlib.sha256(memory.getvalue()).hexdigest()


def _options(pipeline: Any, spec: ModelSpec, count: int) -> dict[str, Any]:  # noqa: ANN401
    defaults, limits = spec.defaults, spec.limits
    options: dict[str, Any] = {
        "num_inference_steps": defaults.num_inference_steps,
        "guidance_scale": defaults.guidance_scale if limits.has_guidance else 1.0,
    }
    if limits.has_negative_prompt and defaults.negative_prompt:
        options["negative_prompt"] = [defaults.negative_prompt] * count
    if spec.family == "flux" and not pipeline.transformer.config.guidance_embeds:
        options["max_sequence_length"] = MAX_TEXT_TOKENS_DISTILLED
    return options


def _modules(pipeline: Any) -> list[nn.Module]:  # noqa: ANN401
    return [part for part in pipeline.components.values() if isinstance(part, nn.Module)]


def _layers(pipeline: Any) -> list[Any]:  # noqa: ANN401
    return [layer for part in _modules(pipeline) for layer in adapted_layers(part)]


@contextmanager
def _undisturbed(pipeline: Any) -> Generator[None, None, None]:  # noqa: ANN401
    """Chance and the modules' modes are afterwards as they were before, and nothing is compiled for a picture."""
    modes = {module: module.training for part in _modules(pipeline) for module in part.modules()}
    devices = [pipeline.device] if pipeline.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.compiler.set_stance("force_eager"):
        for part in _modules(pipeline):
            part.eval()
        try:
            yield
        finally:
            for module, was_training in modes.items():
                module.training = was_training


@contextmanager
def _as_served(pipeline: Any) -> Generator[None, None, None]:  # noqa: ANN401
    """The adapter in the precision of the layers beneath it, to which diffusers and our engines round it."""
    exact: list[tuple[nn.Parameter, torch.Tensor]] = []
    try:
        for layer in _layers(pipeline):
            dtype = layer.get_base_layer().weight.dtype
            for name, parameter in layer.named_parameters():
                if not name.startswith("base_layer."):
                    exact.append((parameter, parameter.data))
                    parameter.data = parameter.data.to(dtype)
        yield
    finally:
        for parameter, values in exact:
            parameter.data = values
