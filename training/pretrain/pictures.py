"""Subjects become pictures: cut out, scaled, set on a colour. Letters: B pictures, C channels, H W pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.pretrain.subjects import Subject


@dataclass(frozen=True)
class Cutouts:
    """Every subject at one size, colours premultiplied by alpha: uint8, one row a subject."""

    premultiplied_BCHW: Tensor
    alpha_B1HW: Tensor

    @property
    def size_px(self) -> int:
        """Width and height of a cutout."""
        return int(self.alpha_B1HW.shape[-1])

    def __len__(self) -> int:
        return int(self.alpha_B1HW.shape[0])


def load_cutouts(subjects: Sequence[Subject], size_px: int) -> Cutouts:
    """Read every subject's picture at `size_px`."""
    rows = np.stack([_read_rgba(subject.picture, size_px) for subject in subjects])
    rows_BCHW = torch.from_numpy(rows).permute(0, 3, 1, 2).contiguous()
    return Cutouts(rows_BCHW[:, :3].contiguous(), rows_BCHW[:, 3:].contiguous())


def compose(
    cutouts: Cutouts, which_B: Tensor, colours_B3: Tensor, *, canvas_px: int, lefts_px: Tensor, tops_px: Tensor
) -> Tensor:
    """Set cutouts on plain colours (0..255); returns pictures in -1..1. Parts off the canvas are cut away."""
    pictures_BCHW = colours_B3.float()[:, :, None, None].expand(-1, -1, canvas_px, canvas_px).clone()
    for row, (index, left, top) in enumerate(zip(which_B.tolist(), lefts_px.tolist(), tops_px.tolist(), strict=True)):
        paste(pictures_BCHW[row], cutouts, index, left_px=left, top_px=top)
    return pictures_BCHW / 127.5 - 1.0


def paste(picture_CHW: Tensor, cutouts: Cutouts, index: int, *, left_px: int, top_px: int) -> None:
    """Draw one cutout over a picture (0..255), in place."""
    canvas_px, size_px = picture_CHW.shape[-1], cutouts.size_px
    x0, x1 = max(left_px, 0), min(left_px + size_px, canvas_px)
    y0, y1 = max(top_px, 0), min(top_px + size_px, canvas_px)
    if x0 >= x1 or y0 >= y1:
        return
    rows, columns = slice(y0 - top_px, y1 - top_px), slice(x0 - left_px, x1 - left_px)
    alpha_1HW = cutouts.alpha_B1HW[index, :, rows, columns].float() / 255.0
    target_CHW = picture_CHW[:, y0:y1, x0:x1]
    target_CHW.mul_(1.0 - alpha_1HW).add_(cutouts.premultiplied_BCHW[index, :, rows, columns].float())


def centred(size_px: int, canvas_px: int) -> int:
    """Left or top of something centred on the canvas."""
    return (canvas_px - size_px) // 2


def psnr_db(made_BCHW: Tensor, true_BCHW: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture, values in -1..1."""
    error_B = (made_BCHW.clamp(-1, 1) - true_BCHW).square().flatten(1).mean(1)
    return 10.0 * torch.log10(4.0 / error_B.clamp_min(1e-10))


def _read_rgba(path: Path, size_px: int) -> NDArray[np.uint8]:
    with Image.open(path) as source:
        # "RGBa" is premultiplied: scaling it leaves no dark or coloured fringe.
        scaled = source.convert("RGBA").convert("RGBa").resize((size_px, size_px), Image.Resampling.LANCZOS)
    return np.asarray(Image.frombytes("RGBA", scaled.size, scaled.tobytes()))
