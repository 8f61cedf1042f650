"""How good a still is and what it looks like, in numbers: one RGB array in, scores out. Knows no video."""

import cv2
import numpy as np
import numpy.typing as npt

from pipelines.frames.candidates import Scores

Picture = npt.NDArray[np.uint8]  # height x width x 3, RGB; or luma, height x width
Vector = npt.NDArray[np.float32]

SHARPNESS_SIDE_PX = 640  # smaller ones hide blur that full-size stills show; larger ones show little but noise
BLACK_LUMA, WHITE_LUMA = 8, 250
HASH_SIDE_PX, HASH_BITS_SIDE = 32, 8
LUMA_CELLS, COLOUR_CELLS = 8, 4  # of a side
GRADIENT_CELLS, GRADIENT_DIRECTIONS, GRADIENT_CELL_PX = 6, 4, 16


def luma(rgb: Picture) -> Picture:
    """Its brightness alone."""
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def shrink(picture: Picture, side_px: int) -> Picture:
    """At most that long on its longer side."""
    height, width = picture.shape[:2]
    scale = side_px / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def score(grey: Picture) -> Scores:
    """Of a still in luma. Sharpness is the variance of the Laplacian (Pech-Pacheco et al., "Diatom autofocusing in
    brightfield microscopy", 2000), at one size, so that videos of different sizes compare."""
    grey = shrink(grey, SHARPNESS_SIDE_PX)
    shares = np.cumsum(np.bincount(grey.ravel(), minlength=256)) / grey.size
    return Scores(
        sharpness=float(cv2.Laplacian(grey, cv2.CV_32F).var()),
        brightness=float(grey.mean()),
        highlights=float(np.searchsorted(shares, 0.98)),
        contrast=float(grey.std()),
        dark_share=float(shares[BLACK_LUMA]),
        bright_share=float(1 - shares[WHITE_LUMA - 1]),
    )


def perceptual_hash(grey: Picture) -> str:
    """64 bits as hex: which low frequencies of its cosine transform lie above their median (Zauner, "Implementation
    and benchmarking of perceptual image hash functions", 2010). The mean, at frequency zero, is left out."""
    small = cv2.resize(grey, (HASH_SIDE_PX, HASH_SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:HASH_BITS_SIDE, :HASH_BITS_SIDE].ravel()
    low[0] = 0
    return np.packbits(low > np.median(low)).tobytes().hex()


def describe(rgb: Picture) -> Vector:
    """Where it is light and dark, where which colours are, and which way its edges run: a vector of length 1.

    Euclidean distance tells stills apart: below 0.12 it is camera noise, drifting exposure or a breath; a person who
    lifts a hand is at 0.15 to 0.25, another scene beyond 0.6. Insensitive to size and overall brightness.
    """
    parts = (_layout(rgb), _edges(rgb))
    return np.concatenate(parts).astype(np.float32) / np.float32(np.sqrt(len(parts)))


def _layout(rgb: Picture) -> Vector:
    side = LUMA_CELLS
    lab = cv2.cvtColor(cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2LAB)
    lab = lab.astype(np.float32) - 128
    lightness = lab[..., 0] - lab[..., 0].mean()
    colours = cv2.resize(lab[..., 1:], (COLOUR_CELLS, COLOUR_CELLS), interpolation=cv2.INTER_AREA)
    # A cell of colour stands for several of lightness and counts as much.
    weight = LUMA_CELLS / COLOUR_CELLS
    return _unit(np.concatenate([lightness.ravel(), weight * colours.ravel()]))


def _edges(rgb: Picture) -> Vector:
    """A coarse histogram of oriented gradients (Dalal and Triggs, 2005); the root keeps strong edges from ruling."""
    side = GRADIENT_CELLS * GRADIENT_CELL_PX
    grey = luma(np.asarray(cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8))
    across = cv2.Sobel(grey, cv2.CV_32F, 1, 0)
    down = cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    direction = np.floor((np.arctan2(down, across) / np.pi % 1) * GRADIENT_DIRECTIONS).astype(int)
    rows, columns = np.indices((side, side)) // GRADIENT_CELL_PX
    bins = (rows * GRADIENT_CELLS + columns) * GRADIENT_DIRECTIONS + direction % GRADIENT_DIRECTIONS
    size = GRADIENT_CELLS**2 * GRADIENT_DIRECTIONS
    histogram = np.bincount(bins.ravel(), weights=np.hypot(across, down).ravel(), minlength=size)
    return _unit(np.sqrt(histogram))


def _unit(vector: npt.NDArray[np.floating]) -> Vector:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-6), dtype=np.float32)
