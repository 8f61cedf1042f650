"""SampleCache: all that is learned from, encoded once: latents (where they lie, not one draw of them) and texts.

n samples of one bucket, B samples of a batch, C H W colours or latent channels and sizes, L text tokens, D text width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipelines.request import Face
from training.buckets import Cut, cuts_of
from training.dataset import Picture
from training.learners.base import Batch, LatentStats, Learner
from training.recipe import Recipe

Tell = Callable[[dict[str, Any]], None]
Bucket = tuple[int, int]  # width, height, in pixels

PIXELS_AT_ONCE = 2 * 1024 * 1024  # through the autoencoder
TEXTS_AT_ONCE = 16
DEVICE_SHARE = 0.25  # of a GPU's free memory that a cache may take; a larger one stays with the host


@dataclass(frozen=True, slots=True)
class CachedSample:
    """One cut of one picture."""

    bucket: Bucket
    picture: int  # which of the pictures, or of the prior's
    is_held_out: bool
    is_prior: bool
    is_mirrored: bool
    text: int  # row among the texts
    row: int  # within its bucket


@dataclass(frozen=True, slots=True)
class _Rows:
    """All samples of one bucket."""

    mean_nCHW: Tensor
    std_nCHW: Tensor
    shape: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class _Source:
    """A picture to be cut."""

    path: Path
    text: str
    faces: tuple[Face, ...]
    index: int
    is_held_out: bool
    is_prior: bool


class SampleCache:
    """Samples in an order that depends on the dataset alone, and batches of them; the host waits for no device."""

    def __init__(
        self,
        samples: Sequence[CachedSample],
        rows: Mapping[Bucket, _Rows],
        texts: Mapping[str, Tensor],
        *,
        wordless: int,
        prior_weight: float,
        device: torch.device,
    ) -> None:
        self.samples = tuple(samples)
        self._wordless, self._prior_weight, self._device = wordless, prior_weight, device
        tensors = [tensor for part in rows.values() for tensor in (part.mean_nCHW, part.std_nCHW)]
        store = _store([*tensors, *texts.values()], device)
        self._texts = {name: tensor.to(store) for name, tensor in texts.items()}
        self._rows = {
            bucket: _Rows(part.mean_nCHW.to(store), part.std_nCHW.to(store), _moved(part.shape, store))
            for bucket, part in rows.items()
        }

    def batch(self, ids: Sequence[int], *, without_words: Sequence[bool]) -> Batch:
        """Samples of one bucket by their places in `samples`; where it says so, without their captions."""
        chosen = [self.samples[id] for id in ids]
        (bucket,) = {sample.bucket for sample in chosen}
        part = self._rows[bucket]
        wordless = zip(chosen, without_words, strict=True)
        weights = [self._prior_weight if sample.is_prior else 1.0 for sample in chosen]
        rows_B = _sent(torch.tensor([sample.row for sample in chosen]), part.mean_nCHW.device)
        texts_B = _sent(
            torch.tensor([self._wordless if is_wordless else sample.text for sample, is_wordless in wordless]),
            part.mean_nCHW.device,
        )
        return Batch(
            latents=LatentStats(self._taken(part.mean_nCHW, rows_B), self._taken(part.std_nCHW, rows_B)),
            texts={name: self._taken(tensor, texts_B) for name, tensor in self._texts.items()},
            shape={name: self._taken(tensor, rows_B) for name, tensor in part.shape.items()},
            weight_B=_sent(torch.tensor(weights), self._device),
        )

    def _taken(self, stored: Tensor, rows_B: Tensor) -> Tensor:
        return _sent(stored.index_select(0, rows_B), self._device)


def build_cache(
    learner: Learner,
    dataset_folder: Path,
    pictures: Sequence[Picture],
    recipe: Recipe,
    *,
    prior_pictures: Sequence[Path] = (),
    tell: Tell,
) -> SampleCache:
    """Cut, encode and caption all pictures; those held out are never mirrored. It tells of each picture done."""
    sources = [
        _Source(dataset_folder / picture.file, picture.caption, picture.faces, index, picture.is_held_out, False)
        for index, picture in enumerate(pictures)
    ]
    sources += [
        _Source(path, recipe.loss.prior_prompt, (), index, False, True) for index, path in enumerate(prior_pictures)
    ]
    texts = list(dict.fromkeys(["", *(source.text for source in sources)]))
    samples: list[CachedSample] = []
    buckets: dict[Bucket, _Encoder] = {}
    for number, source in enumerate(sources, start=1):
        with Image.open(source.path) as file:
            image = file.convert("RGB")
        for cut in _cuts(image.size, source, recipe, learner.multiple_px):
            encoder = buckets.setdefault(cut.bucket, _Encoder(learner))
            row = encoder.add(image, cut)
            samples.append(
                CachedSample(
                    bucket=cut.bucket,
                    picture=source.index,
                    is_held_out=source.is_held_out,
                    is_prior=source.is_prior,
                    is_mirrored=cut.is_mirrored,
                    text=texts.index(source.text),
                    row=row,
                )
            )
        tell({"stage": "cache", "done": number, "of": len(sources)})
    return SampleCache(
        samples,
        {bucket: encoder.finish() for bucket, encoder in buckets.items()},
        _encoded(learner, texts),
        wordless=texts.index(""),
        prior_weight=recipe.loss.prior_weight,
        device=learner.device,
    )


class _Encoder:
    """Gathers the cuts of one bucket and encodes as many at once as the autoencoder can well take."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._waiting: list[Tensor] = []
        self._encoded: list[LatentStats] = []
        self._shapes: list[Mapping[str, Tensor]] = []

    def add(self, image: Image.Image, cut: Cut) -> int:
        """Its row."""
        pixels_3HW = _pixels(image, cut)
        self._waiting.append(pixels_3HW)
        self._shapes.append(_shape(self._learner, image.size, cut))
        if len(self._waiting) * pixels_3HW[0].numel() >= PIXELS_AT_ONCE:
            self._encode()
        return len(self._shapes) - 1

    def finish(self) -> _Rows:
        if self._waiting:
            self._encode()
        return _Rows(
            torch.cat([stats.mean_BCHW for stats in self._encoded]),
            torch.cat([stats.std_BCHW for stats in self._encoded]),
            {name: torch.cat([shape[name] for shape in self._shapes]) for name in self._shapes[0]},
        )

    def _encode(self) -> None:
        pixels_B3HW = torch.stack(self._waiting).to(self._learner.device)
        self._encoded.append(self._learner.cache_pictures(pixels_B3HW.float() / 127.5 - 1))
        self._waiting.clear()


def _cuts(size: tuple[int, int], source: _Source, recipe: Recipe, multiple_px: int) -> Iterator[Cut]:
    for cut in cuts_of(*size, source.faces, recipe.pictures, multiple_px=multiple_px):
        if not (source.is_held_out and cut.is_mirrored):
            yield cut


def _pixels(image: Image.Image, cut: Cut) -> Tensor:
    """Bytes [3, H, W]."""
    box = (cut.left_px, cut.top_px, cut.left_px + cut.width_px, cut.top_px + cut.height_px)
    sized = image.resize(cut.bucket, Image.Resampling.LANCZOS, box=box)
    pixels_HW3 = np.array(sized)
    return torch.from_numpy(pixels_HW3[:, ::-1].copy() if cut.is_mirrored else pixels_HW3).permute(2, 0, 1)


def _shape(learner: Learner, size: tuple[int, int], cut: Cut) -> Mapping[str, Tensor]:
    left_px = size[0] - cut.left_px - cut.width_px if cut.is_mirrored else cut.left_px
    # The corner as it lies in the whole picture once that is as large as the target.
    shrunk = cut.target_width_px / cut.width_px
    return learner.shape_of(size, (round(left_px * shrunk), round(cut.top_px * shrunk)), cut.bucket)


def _encoded(learner: Learner, texts: Sequence[str]) -> dict[str, Tensor]:
    parts = [learner.cache_texts(texts[i : i + TEXTS_AT_ONCE]) for i in range(0, len(texts), TEXTS_AT_ONCE)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _store(tensors: Sequence[Tensor], device: torch.device) -> torch.device:
    """Where a cache lies: on the device, unless it would take too much of it."""
    if device.type != "cuda":
        return device
    free_bytes, _ = torch.cuda.mem_get_info(device)
    taken_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return device if taken_bytes <= DEVICE_SHARE * free_bytes else torch.device("cpu")


def _moved(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device, by a copy that the host does not wait for."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
