"""Stills on the disk: pictures that differ as much as a test wants, and what is asked of them."""

import hashlib
import io
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from training.orders import STILLS, PrepareOrder
from training.recipe import Recipe
from training.stills import Still

SIZE = (96, 64)


def scenery(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Patches of colour with sharp edges; another seed is another scene."""
    random = np.random.default_rng(seed)
    patches = random.integers(20, 235, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize(size, Image.Resampling.NEAREST)


def blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(12))


def flat(level: int) -> Image.Image:
    return Image.new("RGB", SIZE, (level, level, level))


def png(image: Image.Image, *, compress_level: int = 6) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=compress_level)
    return buffer.getvalue()


def lay(folder: Path, name: str, image: Image.Image | bytes, **changes: Any) -> Still:
    """Writes it below folder/stills and says what it is: of a video unless `changes` say otherwise."""
    data = image if isinstance(image, bytes) else png(image)
    width_px, height_px = Image.open(io.BytesIO(data)).size if not isinstance(image, bytes) else SIZE
    (folder / STILLS).mkdir(parents=True, exist_ok=True)
    (folder / STILLS / name).write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    still = Still(name, sha256, width_px, height_px, "upl_1", "a" * 64, "video", time_s=0.0)
    return replace(still, **changes)


def film(folder: Path, number: int, *, upload: str = "upl_1", seed: int = 0) -> list[Still]:
    """That many different stills of one video, half a second apart."""
    return [
        lay(folder, f"{upload}-{index:02d}.png", scenery(seed + index), upload_id=upload, time_s=0.5 * index)
        for index in range(number)
    ]


def prepare_order(folder: Path, stills: list[Still], recipe: Recipe | None = None, **changes: Any) -> PrepareOrder:
    recipe = recipe or Recipe(title="A test", pictures={"resolution_px": 64})
    order = PrepareOrder(
        folder=str(folder),
        job_id="job_1",
        recipe_json=recipe.to_json(),
        trigger="sks person",
        caption="template",
        seed=7,
        base_model="tiny-sd",
        base_sha256="b" * 64,
        stills=tuple(asdict(still) for still in stills),
        captions=(),
        captioner=None,
        num_threads=1,
    )
    return replace(order, **changes)
