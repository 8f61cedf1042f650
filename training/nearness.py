"""How near a made picture is to a frame, in colour and in structure: a number, not a judgement of taste.

distance = (colour + structure) / 2, from 0 (equal) to 1, where

- colour is the root mean square, over an area-averaged 32 × 32 picture, of the difference in CIE L*a*b* (CIE 015:2018,
  white point D65; from sRGB by IEC 61966-2-1), divided by 100, which is how far black is from white; at most 1;
- structure is 1 - SSIM of the luma (ITU-R BT.601) of an area-averaged 64 × 64 picture, at least 0 and at most 1. SSIM
  is that of Wang, Bovik, Sheikh and Simoncelli, "Image Quality Assessment: From Error Visibility to Structural
  Similarity", IEEE Transactions on Image Processing 13(4), 2004: the mean over all whole Gaussian windows of 11 × 11
  pixels, spread 1.5, K1 = 0.01, K2 = 0.03.

H W picture size, C colours
"""

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

COLOUR_SIDE_PX, STRUCTURE_SIDE_PX = 32, 64
MAX_COLOUR = 100.0  # L*a*b*: from black to white
WINDOW_PX, WINDOW_SPREAD_PX = 11, 1.5
K1, K2, LUMA_RANGE = 0.01, 0.03, 255.0

# Linear sRGB → CIE XYZ of D65, each row divided by the white point's own value: white is (1, 1, 1).
XYZ_OF_RGB = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
RELATIVE_XYZ_OF_RGB = XYZ_OF_RGB / XYZ_OF_RGB.sum(axis=1, keepdims=True)
LAB_OF_XYZ = np.array([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])

Floats = NDArray[np.float64]


def distance(first: Image.Image, second: Image.Image) -> float:
    """0 for equal pictures, at most 1; the same both ways. Pictures of unlike shape are squeezed onto each other."""
    return (_colour_distance(first, second) + _structure_distance(first, second)) / 2


def mean_distance(pictures: Sequence[Image.Image], frames: Sequence[Image.Image]) -> float:
    """The mean over all pairs of a picture and a frame, each frame cut to the picture's shape around its middle."""
    return float(np.mean([distance(picture, cut_like(frame, picture)) for picture in pictures for frame in frames]))


def cut_like(frame: Image.Image, picture: Image.Image) -> Image.Image:
    """The largest part of the frame around its middle that has the picture's shape."""
    share = min(frame.width / picture.width, frame.height / picture.height)
    width, height = share * picture.width, share * picture.height
    left, top = (frame.width - width) / 2, (frame.height - height) / 2
    return frame.crop((round(left), round(top), round(left + width), round(top + height)))


def _colour_distance(first: Image.Image, second: Image.Image) -> float:
    difference_HWC = _lab(first) - _lab(second)
    return min(1.0, float(np.sqrt(np.square(difference_HWC).sum(axis=-1).mean())) / MAX_COLOUR)


def _structure_distance(first: Image.Image, second: Image.Image) -> float:
    return min(1.0, 1.0 - _similarity(_luma(first), _luma(second)))


def _lab(picture: Image.Image) -> Floats:
    """[32, 32, 3]: L* from 0 to 100, a* and b* around 0."""
    coded_HWC = np.asarray(_averaged(picture.convert("RGB"), COLOUR_SIDE_PX), dtype=np.float64) / 255
    linear_HWC = np.where(coded_HWC <= 0.04045, coded_HWC / 12.92, ((coded_HWC + 0.055) / 1.055) ** 2.4)
    xyz_HWC = linear_HWC @ RELATIVE_XYZ_OF_RGB.T
    root_HWC = np.where(xyz_HWC > (6 / 29) ** 3, np.cbrt(xyz_HWC), xyz_HWC / (3 * (6 / 29) ** 2) + 4 / 29)
    lab_HWC: Floats = root_HWC @ LAB_OF_XYZ.T - np.array([16.0, 0.0, 0.0])
    return lab_HWC


def _luma(picture: Image.Image) -> Floats:
    """[64, 64], 0 to 255."""
    return np.asarray(_averaged(picture.convert("L"), STRUCTURE_SIDE_PX), dtype=np.float64)


def _averaged(picture: Image.Image, side_px: int) -> Image.Image:
    return picture.resize((side_px, side_px), Image.Resampling.BOX)


def _similarity(first_HW: Floats, second_HW: Floats) -> float:
    """SSIM, equation 13 of the paper; 1 for equal pictures."""
    mean1_HW, mean2_HW = _windowed(first_HW), _windowed(second_HW)
    variance1_HW = _windowed(first_HW**2) - mean1_HW**2
    variance2_HW = _windowed(second_HW**2) - mean2_HW**2
    covariance_HW = _windowed(first_HW * second_HW) - mean1_HW * mean2_HW
    c1, c2 = (K1 * LUMA_RANGE) ** 2, (K2 * LUMA_RANGE) ** 2
    above_HW = (2 * mean1_HW * mean2_HW + c1) * (2 * covariance_HW + c2)
    below_HW = (mean1_HW**2 + mean2_HW**2 + c1) * (variance1_HW + variance2_HW + c2)
    return float((above_HW / below_HW).mean())


def _windowed(values_HW: Floats) -> Floats:
    """The weighted mean of each window that lies within the picture."""
    offsets = np.arange(WINDOW_PX) - WINDOW_PX // 2
    weights = np.exp(-(offsets**2) / (2 * WINDOW_SPREAD_PX**2))
    weights /= weights.sum()
    rows_HW = sliding_window_view(values_HW, WINDOW_PX, axis=0) @ weights
    windowed_HW: Floats = sliding_window_view(rows_HW, WINDOW_PX, axis=1) @ weights
    return windowed_HW
