"""ModelSpec → a diffusers pipeline on a device. Only safetensors, only known classes, never code from a folder."""

import os
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    FluxPipeline,
    QwenImagePipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    ZImagePipeline,
)
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from configs.settings import ModelSettings
from models.errors import ModelError, WeightsError
from models.folder import NOT_LOADED, check_family, check_folder, variant_of, weight_files
from models.spec import Dtype, Family, ModelSpec
from models.weights import HeldWeights, hold, verified_hash

PIPELINES: dict[Family, Any] = {
    "sd": StableDiffusionPipeline,
    "sdxl": StableDiffusionXLPipeline,
    "flux": FluxPipeline,
    "sd3": StableDiffusion3Pipeline,
    "z-image": ZImagePipeline,
    "qwen-image": QwenImagePipeline,
}
DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run, and what provenance must say about it."""

    spec: ModelSpec
    pipeline: Any  # a diffusers pipeline of PIPELINES[spec.family]
    device: torch.device
    dtype: torch.dtype
    weights_sha256: str
    held: HeldWeights

    @property
    def folder(self) -> Path:
        return self.held.folder

    @property
    def num_parameters(self) -> int:
        modules = (part for part in self.pipeline.components.values() if isinstance(part, torch.nn.Module))
        return sum(parameter.numel() for module in modules for parameter in module.parameters())


def load_model(spec: ModelSpec, settings: ModelSettings, state_dir: Path) -> LoadedModel:
    """Find, check, hash and load one model; WeightsError says what is wrong with its folder."""
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, spec, device)
    # Ray sets OMP_NUM_THREADS to its own slot count, so "all cores" has to be said.
    torch.set_num_threads(settings.num_threads or len(os.sched_getaffinity(0)))
    held = hold(spec, settings, state_dir)
    try:
        index = check_folder(held.folder)
        check_family(index, spec.family, where=str(held.folder))
        digest = verified_hash(spec, held, state_dir)
        pipeline = load_pipeline(spec, held.folder, dtype)
        return LoadedModel(spec, pipeline.to(device), device, dtype, digest, held)
    except BaseException:
        held.close()
        raise


def pick_device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The GPU where there is one, unless told otherwise."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ModelError("models.device is cuda, but PyTorch sees no CUDA device; set it to auto or cpu")
    has_gpu = wanted != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if has_gpu else "cpu")


def pick_dtype(
    wanted: Literal["auto", "float32", "bfloat16", "float16"], spec: ModelSpec, device: torch.device
) -> torch.dtype:
    """What settings say; else the model's own on a GPU, and float32 on a CPU, where half precision is rarely faster."""
    if wanted != "auto":
        return DTYPES[wanted]
    return DTYPES[spec.dtype] if device.type == "cuda" else torch.float32


def load_pipeline(spec: ModelSpec, folder: Path, dtype: torch.dtype) -> Any:  # noqa: ANN401 - diffusers is untyped
    """The diffusers pipeline of a folder that check_folder() has looked at, on the CPU."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    # An override may lack the variant that the catalogue names.
    has_variant = any(variant_of(path.name) == spec.source.variant for path in weight_files(folder))
    pipeline_class = PIPELINES[spec.family]
    # Parts that check_folder() did not look at must not be loaded either.
    left_out = dict.fromkeys(NOT_LOADED & signature(pipeline_class.__init__).parameters.keys())
    try:
        pipeline = pipeline_class.from_pretrained(
            str(folder),
            dtype=dtype,
            variant=spec.source.variant if has_variant else None,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            **left_out,
            **({"requires_safety_checker": False} if spec.family == "sd" else {}),
            **({"add_watermarker": False} if spec.family == "sdxl" else {}),
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{folder} cannot be loaded as a {pipeline_class.__name__}: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
