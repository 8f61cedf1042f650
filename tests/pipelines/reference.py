"""What somebody gets who uses diffusers and nothing of ours: the pictures that the engine's must equal."""

from collections.abc import Mapping
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting
from numpy.typing import NDArray
from PIL import Image

from models.loader import PIPELINES
from models.spec import Family
from pipelines.request import GenerationRequest
from pipelines.schedulers import SCHEDULERS

Pixels = NDArray[np.uint8]  # [H, W, 3]


def plain_pixels(
    folder: Path,
    family: Family,
    request: GenerationRequest,
    *,
    image: Image.Image | None = None,
    mask: Image.Image | None = None,
    lora_files: Mapping[str, Path] | None = None,
) -> Pixels:
    """The picture of `request`, made alone; of several images the first. In `mask` white is painted anew."""
    text_to_image = _pipeline(folder, family)
    arguments: dict[str, Any] = {"negative_prompt": request.negative_prompt or None}
    arguments |= {"width": request.width_px, "height": request.height_px}
    if image is not None:
        # The size asked for is the size of the picture to start from: callers of the pipelines resize it themselves.
        size = (request.width_px, request.height_px)
        arguments["image"] = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        arguments["strength"] = request.strength
        if mask is not None:
            arguments["mask_image"] = mask.resize(size, Image.Resampling.NEAREST)
    pipeline = _variant(text_to_image, has_image=image is not None, has_mask=mask is not None)
    # Inpainting with SD3 forgets the autoencoder's shift where it decodes, though not where it encodes.
    is_decoded_apart = family == "sd3" and mask is not None
    own_scheduler = text_to_image.scheduler
    pipeline.scheduler = _scheduler(own_scheduler, family, request.scheduler)
    try:
        _adapt(text_to_image, request, lora_files or {})
        pictures = pipeline(
            prompt=request.prompt,
            num_inference_steps=request.num_inference_steps,
            **{"true_cfg_scale" if family == "qwen-image" else "guidance_scale": request.guidance_scale},
            generator=torch.Generator("cpu").manual_seed(request.seed),
            output_type="latent" if is_decoded_apart else "pil",
            # Some take the size from the picture and know no width and height.
            **{name: value for name, value in arguments.items() if name in signature(pipeline.__call__).parameters},
        ).images
        if is_decoded_apart:
            pictures = _decoded(text_to_image, pictures)
    finally:
        text_to_image.scheduler = own_scheduler
        text_to_image.unload_lora_weights()
    return np.asarray(pictures[0].convert("RGB"))


def _decoded(pipeline: Any, latents: torch.Tensor) -> list[Image.Image]:
    config = pipeline.vae.config
    with torch.no_grad():
        pixels = pipeline.vae.decode(latents / config.scaling_factor + config.shift_factor, return_dict=False)[0]
    return list(pipeline.image_processor.postprocess(pixels, output_type="pil"))


@cache
def _pipeline(folder: Path, family: Family) -> Any:
    pipeline = PIPELINES[family].from_pretrained(str(folder))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _variant(pipeline: Any, *, has_image: bool, has_mask: bool) -> Any:
    """The pipeline itself or its sibling for pictures, around the same weights."""
    if not has_image:
        return pipeline
    auto = AutoPipelineForInpainting if has_mask else AutoPipelineForImage2Image
    sibling = auto.from_pipe(pipeline)
    sibling.set_progress_bar_config(disable=True)
    return sibling


def _scheduler(own: Any, family: Family, name: str | None) -> Any:
    if name is None:
        return type(own).from_config(own.config)
    recipe = SCHEDULERS[family][name]
    return getattr(diffusers, recipe.class_name).from_config(own.config, **recipe.overrides)


def _adapt(pipeline: Any, request: GenerationRequest, files: Mapping[str, Path]) -> None:
    names = [choice.name for choice in request.loras]
    for name in dict.fromkeys(names):
        pipeline.load_lora_weights(str(files[name].parent), weight_name=files[name].name, adapter_name=name)
    if names:
        pipeline.set_adapters(names, [choice.scale for choice in request.loras])
