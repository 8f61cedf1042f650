"""Pictures for test clips that say what they are: which frame, which way up, which colours."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # height x width x RGB
Signal = NDArray[np.uint16]  # the same with 16 bits, for what 8 cannot hold
Draw = Callable[[int, int, int], NDArray[np.uint8] | NDArray[np.uint16]]  # frame index, width_px, height_px

RED, GREEN, BLUE, YELLOW = (200, 40, 40), (40, 180, 60), (40, 60, 200), (220, 200, 60)
CORNERS = {"top left": RED, "top right": GREEN, "bottom left": BLUE, "bottom right": YELLOW}
NUM_BITS = 12
SCENES = ((190, 60, 50), (50, 160, 70), (60, 80, 200), (200, 190, 60), (150, 60, 170), (60, 170, 180), (230, 230, 230))
BLACK_BAR = 0.125  # of the height, above and below the picture of `letterboxed`


def quadrants(index: int, width_px: int, height_px: int) -> Pixels:
    """A colour in each corner, and the index across the middle as twelve black and white cells, highest bit first."""
    picture = np.zeros((height_px, width_px, 3), np.uint8)
    across, down = width_px // 2, height_px // 2
    picture[:down, :across], picture[:down, across:] = RED, GREEN
    picture[down:, :across], picture[down:, across:] = BLUE, YELLOW
    return with_index(picture, index)


def with_index(picture: Pixels, index: int) -> Pixels:
    """The picture with its index written across the middle."""
    height_px, width_px, _ = picture.shape
    band = slice(round(height_px * 0.4), round(height_px * 0.6))
    edges = np.linspace(width_px * 0.1, width_px * 0.9, NUM_BITS + 1).round().astype(int)
    for bit in range(NUM_BITS):
        is_set = index >> (NUM_BITS - 1 - bit) & 1
        picture[band, edges[bit] : edges[bit + 1]] = 235 if is_set else 20
    return picture


def read_index(rgb: Pixels) -> int:
    """The index that is written across the middle of an upright picture of any size."""
    height_px, width_px, _ = rgb.shape
    band = rgb[round(height_px * 0.46) : max(round(height_px * 0.54), round(height_px * 0.46) + 1)]
    centres = np.linspace(width_px * 0.1, width_px * 0.9, 2 * NUM_BITS + 1)[1::2].round().astype(int)
    bits = band[:, centres].mean(axis=(0, 2)) > 128
    return int("".join("1" if is_set else "0" for is_set in bits), 2)


def corners(rgb: Pixels) -> dict[str, tuple[int, int, int]]:
    """The colours in the middle of the four corners' fields."""
    height_px, width_px, _ = rgb.shape
    found = {}
    for name in CORNERS:
        y_px = round(height_px * (0.2 if "top" in name else 0.8))
        x_px = round(width_px * (0.25 if "left" in name else 0.75))
        patch = rgb[y_px - 2 : y_px + 3, x_px - 2 : x_px + 3].reshape(-1, 3)
        found[name] = tuple(int(value) for value in patch.mean(axis=0).round())
    return found  # type: ignore[return-value]


def letterboxed(index: int, width_px: int, height_px: int) -> Pixels:
    """`quadrants` between black bars above and below."""
    bar_px = round(height_px * BLACK_BAR)
    picture = np.zeros((height_px, width_px, 3), np.uint8)
    picture[bar_px : height_px - bar_px] = quadrants(index, width_px, height_px - 2 * bar_px)
    return picture


def pillarboxed(index: int, width_px: int, height_px: int) -> Pixels:
    """`quadrants` between black bars on the left and right, a quarter of the width each."""
    bar_px = width_px // 4
    picture = np.zeros((height_px, width_px, 3), np.uint8)
    picture[:, bar_px : width_px - bar_px] = quadrants(index, width_px - 2 * bar_px, height_px)
    return picture


def still(_: int, width_px: int, height_px: int) -> Pixels:
    """The same picture whichever frame it is."""
    return quadrants(0, width_px, height_px)


def cuts(index: int, width_px: int, height_px: int, *, every: int = 30) -> Pixels:
    """Another scene, of another colour and pattern, every so many frames; something small moves within each."""
    scene, step = divmod(index, every)
    y_px, x_px = np.mgrid[:height_px, :width_px]
    waves = 0.75 + 0.25 * np.sin((x_px * (1 + scene % 3) + y_px * (scene % 4)) / 6)
    picture = (waves[..., None] * SCENES[scene % len(SCENES)]).astype(np.uint8)
    left_px = step * max(1, width_px // every) % width_px
    picture[: height_px // 6, left_px : left_px + width_px // 8] = 255
    return with_index(picture, index)


def dark(index: int, width_px: int, height_px: int) -> Pixels:
    """A night: nothing brighter than a tenth, everywhere a little noise, and a lamp that walks."""
    noise = np.random.default_rng(index).integers(6, 22, (height_px, width_px, 1))
    picture = np.repeat(noise, 3, axis=2).astype(np.uint8)
    x_px = 10 + index * 3 % (width_px - 20)
    picture[height_px // 2 - 4 : height_px // 2 + 4, x_px - 4 : x_px + 4] = (90, 80, 50)
    return picture


def sliding_bar(index: int, width_px: int, height_px: int) -> Pixels:
    """A bright upright bar on grey that moves 4 px with each index: it tears into combs where two fields are woven."""
    picture = np.full((height_px, width_px, 3), 70, np.uint8)
    left_px = 8 + index * 4 % (width_px - 40)
    picture[:, left_px : left_px + 24] = 220
    return picture
