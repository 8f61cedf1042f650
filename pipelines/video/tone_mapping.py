"""HDR to SDR: pictures coded as PQ or HLG in BT.2020 become BT.709 pictures with the sRGB curve, as float32 in bands.

The way: signal → light of the display in units of PEAK_NITS → tone curve down to WHITE_NITS → BT.709 primaries → sRGB.
All formulas are from the standards named beside them. The tone curve is applied to the brightest of the three channels
and the others follow in proportion, so hues stay and greys stay grey. Curves are looked up in tables over the square
root of light; against the formulas in float64 a channel differs by 1 of 255 at most (a test holds that).
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from pipelines.video.info import Transfer
from pipelines.video.still import Pixels

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

PEAK_NITS = 1_000.0  # what most HDR is mastered for, and the display for which BT.2100 gives HLG's system gamma of 1.2
WHITE_NITS = 203.0  # HDR reference white, ITU-R BT.2408: becomes the brightest that SDR has
HLG_GAMMA = 1.2
BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)
# ITU-R BT.2087, linear BT.2020 → BT.709; each row sums to 1, so white stays white.
TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0729], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1188]],
    np.float32,
)
NUM_STEPS = 4_096
DARKEST = np.float32(1e-9)
BAND_ROWS = 128  # at a time: bounds the memory, and fits the processor's cache


def to_sdr(signal_HW3: NDArray[np.uint16], transfer: Transfer) -> Pixels:
    """Full-range R'G'B' of 16 bits in BT.2020 → 8 bits, sRGB."""
    out = np.empty(signal_HW3.shape, np.uint8)
    for start in range(0, len(signal_HW3), BAND_ROWS):
        out[start : start + BAND_ROWS] = _band(signal_HW3[start : start + BAND_ROWS], transfer)
    return out


def _band(signal_HW3: NDArray[np.uint16], transfer: Transfer) -> Pixels:
    light_HW3 = _light_table(transfer)[signal_HW3 >> 4]
    if transfer == "hlg":
        # BT.2100, OOTF: scene light → light of the display.
        luma_HW1 = (light_HW3 @ BT2020_LUMA)[..., None]
        light_HW3 *= np.power(luma_HW1, HLG_GAMMA - 1, where=luma_HW1 > 0, out=np.zeros_like(luma_HW1))
    brightest_HW1 = light_HW3.max(axis=2, keepdims=True)
    light_HW3 *= _tone_table()[_index(brightest_HW1)] / np.maximum(brightest_HW1, DARKEST)
    sdr_HW3: Pixels = _srgb_table()[_index(np.clip(light_HW3 @ TO_BT709.T, 0, 1))]
    return sdr_HW3


def _index(light: Floats) -> NDArray[np.int16]:
    """Where a table over the square root of light has the entry for it."""
    rounded: NDArray[np.int16] = (np.sqrt(light) * (NUM_STEPS - 1) + 0.5).astype(np.int16)
    return rounded


@cache
def _light_table(transfer: Transfer) -> Floats:
    """Signal of 12 bits → light, 1 being PEAK_NITS for PQ and the peak of the scene for HLG."""
    signal = np.arange(NUM_STEPS) / (NUM_STEPS - 1)
    light = np.minimum(pq_nits(signal) / PEAK_NITS, 1) if transfer == "pq" else hlg_scene(signal)
    table: Floats = light.astype(np.float32)
    return table


@cache
def _tone_table() -> Floats:
    """Light in units of PEAK_NITS → SDR light, in which 1 is white."""
    nits = PEAK_NITS * (np.arange(NUM_STEPS) / (NUM_STEPS - 1)) ** 2
    table: Floats = (bt2390_nits(nits) / WHITE_NITS).astype(np.float32)
    return table


@cache
def _srgb_table() -> Pixels:
    light = (np.arange(NUM_STEPS) / (NUM_STEPS - 1)) ** 2
    return (srgb_signal(light) * 255).round().astype(np.uint8)


def pq_nits(signal: Doubles) -> Doubles:
    """SMPTE ST 2084, EOTF: signal of 0 to 1 → 0 to 10,000 nits."""
    powered = np.power(signal, 32 / 2523)
    light: Doubles = np.maximum(powered - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * powered)
    return 10_000 * light ** (16384 / 2610)


def pq_signal(nits: Doubles) -> Doubles:
    """SMPTE ST 2084, inverse EOTF."""
    powered = (nits / 10_000) ** (2610 / 16384)
    signal: Doubles = ((3424 / 4096 + 2413 / 128 * powered) / (1 + 2392 / 128 * powered)) ** (2523 / 32)
    return signal


def hlg_scene(signal: Doubles) -> Doubles:
    """ITU-R BT.2100, inverse OETF of HLG: signal of 0 to 1 → light of the scene, 0 to 1."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene: Doubles = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return scene


def bt2390_nits(nits: Doubles) -> Doubles:
    """ITU-R BT.2390, EETF: PEAK_NITS down to WHITE_NITS; what is below the knee stays, a spline bends the rest."""
    peak = pq_signal(np.array(PEAK_NITS))
    white = pq_signal(np.array(WHITE_NITS)) / peak
    knee = 1.5 * white - 0.5
    signal = pq_signal(nits) / peak
    t = np.clip((signal - knee) / (1 - knee), 0, 1)
    bent = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * white
    return pq_nits(np.where(signal < knee, signal, bent) * peak)


def srgb_signal(light: Doubles) -> Doubles:
    """IEC 61966-2-1."""
    signal: Doubles = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.power(light, 1 / 2.4) - 0.055)
    return signal
