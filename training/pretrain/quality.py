"""Measures pictures against the true ones: nearest subject, border colour; no model. N pictures, H W pixels."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ALIGNED_PX = 32
BORDER_PX = 4
# A pixel this far from the border colour (largest channel, 0..255) is subject: more than the decoder wavers.
SUBJECT_THRESHOLD = 40
# A row or column with fewer such pixels is a speck, and does not stretch the bounding box.
SPECK_PX = 3
# A border further than this from the asked colour (0..255, Euclidean) is not that colour, even if no other is nearer.
COLOUR_TOLERANCE = 60.0

Pixels = NDArray[np.uint8]


def border_colour(pixels_HW3: Pixels) -> NDArray[np.float64]:
    """Median colour of the outermost pixels: a subject that touches the edge does not move it."""
    inner = np.ones(pixels_HW3.shape[:2], dtype=bool)
    inner[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = False
    colour: NDArray[np.float64] = np.median(pixels_HW3[inner].astype(np.float64), axis=0)
    return colour


def name_colour(colour: NDArray[np.float64], palette: Mapping[str, tuple[int, int, int]]) -> str | None:
    """The nearest palette name, or None when even that one is far."""
    distances = {name: float(np.linalg.norm(colour - np.array(rgb))) for name, rgb in palette.items()}
    nearest = min(distances, key=lambda name: distances[name])
    return nearest if distances[nearest] <= COLOUR_TOLERANCE else None


def align(pixels_HW3: Pixels) -> NDArray[np.float32]:
    """Cut the subject out by its bounding box, pad to a square with white, scale to 32x32; values 0..1."""
    away_HW = np.abs(pixels_HW3.astype(np.float64) - border_colour(pixels_HW3)).max(axis=2) > SUBJECT_THRESHOLD
    rows = np.flatnonzero(away_HW.sum(axis=1) >= SPECK_PX)
    columns = np.flatnonzero(away_HW.sum(axis=0) >= SPECK_PX)
    if rows.size == 0 or columns.size == 0:
        return np.ones((ALIGNED_PX, ALIGNED_PX, 3), dtype=np.float32)
    cut = Image.fromarray(pixels_HW3[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    side_px = max(cut.size)
    square = Image.new("RGB", (side_px, side_px), (255, 255, 255))
    square.paste(cut, ((side_px - cut.width) // 2, (side_px - cut.height) // 2))
    scaled = square.resize((ALIGNED_PX, ALIGNED_PX), Image.Resampling.BOX)
    return np.asarray(scaled, dtype=np.float32) / 255.0


def ranks_of_truth(made: list[Pixels], true: list[Pixels]) -> list[int]:
    """For each made picture, how many true pictures are nearer to it than its own (0: it was recognised)."""
    made_ND = np.stack([align(pixels).ravel() for pixels in made])
    true_ND = np.stack([align(pixels).ravel() for pixels in true])
    distances_NN = np.square(made_ND[:, None, :] - true_ND[None, :, :]).mean(axis=2)
    own_N1 = np.diagonal(distances_NN)[:, None]
    return [int(count) for count in (distances_NN < own_N1).sum(axis=1)]


def share_within(ranks: list[int], places: int) -> float:
    """Share of pictures whose truth is among the nearest `places`."""
    return sum(rank < places for rank in ranks) / len(ranks)
