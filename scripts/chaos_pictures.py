"""Small requests whose pixels are known: made once by the plain diffusers pipeline, before any fault."""

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from PIL import Image, UnidentifiedImageError
from transformers.utils import logging as transformers_logging

from configs.settings import PROJECT_DIR

MODEL = "emoji-3d"
FOLDER = PROJECT_DIR / "models" / "embedded" / MODEL
MAX_DIFFERENCE = 1  # of 255: what rounding may do in a batch of another size
MAX_IMAGES = 2
PROMPTS = ("a red apple", "a cat", "a house", "a dog with a hat", "a green car", "a smiling sun", "a fish", "a tree")
SIZES_PX = ((64, 64), (96, 64), (64, 96), (128, 128))
# Most are short; some run long enough that a fault finds them at work.
STEPS = (2, 2, 3, 4, 4, 8, 16)

Pixels = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class KnownPicture:
    """A request, and the pixels that images 0, 1, … of it must have."""

    prompt: str
    seed: int
    width_px: int
    height_px: int
    steps: int
    guidance_scale: float
    pixels: tuple[Pixels, ...] = ()

    def body(self, num_images: int) -> dict[str, Any]:
        """The fields of it that both image routes share."""
        return {
            "model": MODEL,
            "prompt": self.prompt,
            "seed": self.seed,
            "size": f"{self.width_px}x{self.height_px}",
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "n": num_images,
        }


def draw_requests(rng: random.Random, count: int) -> list[KnownPicture]:
    """Requests without their pixels. The first is the shortest: it is the probe's."""
    probe = KnownPicture(PROMPTS[0], 1, *SIZES_PX[0], STEPS[0], 1.0)
    return [
        probe,
        *(
            KnownPicture(
                rng.choice(PROMPTS),
                rng.randrange(2**40),
                *rng.choice(SIZES_PX),
                rng.choice(STEPS),
                rng.choice((1.0, 1.5, 4.0)),
            )
            for _ in range(count - 1)
        ),
    ]


def make_pixels(requests: Sequence[KnownPicture]) -> list[KnownPicture]:
    """The same requests with what plain diffusers makes of them."""
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER, dtype=torch.float32, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)

    def pixels_of(request: KnownPicture, seed: int) -> Pixels:
        made = pipeline(
            prompt=request.prompt,
            width=request.width_px,
            height=request.height_px,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
        ).images[0]
        pixels: Pixels = np.round(made * 255).astype(np.int16)
        return pixels

    return [
        replace(request, pixels=tuple(pixels_of(request, request.seed + i) for i in range(MAX_IMAGES)))
        for request in requests
    ]


def why_wrong(data: bytes, expected: Pixels) -> str | None:
    """What is wrong with a stored picture; None when its pixels are those expected."""
    try:
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.int16)
    except (UnidentifiedImageError, OSError) as error:
        return f"is no picture: {error}"
    if pixels.shape != expected.shape:
        return f"measures {pixels.shape[:2]} instead of {expected.shape[:2]}"
    difference = int(np.abs(pixels - expected).max())
    return None if difference <= MAX_DIFFERENCE else f"is off by {difference} of 255"
