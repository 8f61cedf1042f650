"""HDR becomes SDR by the standards' formulas: greys stay grey, brighter stays brighter, a grey card is mid-grey."""

import numpy as np
import pytest

from pipelines.video.decoding import open_video
from pipelines.video.info import Transfer
from pipelines.video.tone_mapping import (
    BAND_ROWS,
    BT2020_LUMA,
    HLG_GAMMA,
    PEAK_NITS,
    TO_BT709,
    WHITE_NITS,
    bt2390_nits,
    hlg_scene,
    pq_nits,
    srgb_signal,
    to_sdr,
)
from tests.clips import HLG_STEPS, PQ_STEPS, hlg_signal, pq_signal
from tests.pipelines.video.conftest import Odd

GREY_CARD_NITS = 26.0  # ITU-R BT.2408


def exact(signal_N3: np.ndarray, transfer: Transfer) -> np.ndarray:
    """The same way in float64, with no tables."""
    if transfer == "pq":
        nits = np.minimum(pq_nits(signal_N3), PEAK_NITS)
    else:
        scene = hlg_scene(signal_N3)
        nits = PEAK_NITS * scene * (scene @ BT2020_LUMA.astype(np.float64))[:, None] ** (HLG_GAMMA - 1)
    brightest = np.maximum(nits.max(axis=1, keepdims=True), 1e-9)
    light = nits * bt2390_nits(brightest) / brightest / WHITE_NITS @ TO_BT709.T.astype(np.float64)
    return srgb_signal(np.clip(light, 0, 1)) * 255


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_the_tables_are_within_one_level_of_the_formulas(transfer: Transfer) -> None:
    codes = np.random.default_rng(3).integers(0, 65536, (BAND_ROWS + 9, 61, 3), dtype=np.uint16)
    codes = codes >> 4 << 4  # the tables know 12 bits
    made = to_sdr(codes, transfer).reshape(-1, 3)
    wanted = exact((codes >> 4).reshape(-1, 3) / 4095, transfer)
    assert np.abs(made - wanted).max() <= 1.0
    assert np.abs(made - wanted).mean() <= 0.3


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_a_grey_ramp_stays_grey_and_never_falls(transfer: Transfer) -> None:
    ramp = np.repeat(np.arange(0, 65536, 16, dtype=np.uint16)[None, :, None], 3, axis=2)
    made = to_sdr(ramp, transfer)[0].astype(int)
    assert (np.ptp(made, axis=1) == 0).all()
    assert (np.diff(made[:, 0]) >= 0).all()
    assert made[0, 0] == 0 and made[-1, 0] == 255


@pytest.mark.parametrize(
    ("transfer", "signal"), [("pq", pq_signal(GREY_CARD_NITS)), ("hlg", hlg_signal(0.0478))], ids=["pq", "hlg"]
)
def test_a_grey_card_becomes_mid_grey(transfer: Transfer, signal: np.ndarray) -> None:
    code = np.full((1, 1, 3), round(float(signal) * 65535), np.uint16)
    assert 90 <= to_sdr(code, transfer)[0, 0, 0] <= 128  # 118 is 18 % in sRGB


def test_white_paper_is_bright_and_leaves_room_for_highlights() -> None:
    codes = (pq_signal(np.array([[203.0] * 3, [1_000.0] * 3])) * 65535).round().astype(np.uint16)[None]
    paper, highlight = to_sdr(codes, "pq")[0, :, 0]
    assert 200 <= paper < highlight == 255


def test_what_lies_below_the_knee_is_not_bent() -> None:
    dark = np.array([0.5, 5.0, 50.0])
    assert bt2390_nits(dark) == pytest.approx(dark, rel=1e-9)
    assert bt2390_nits(np.array([PEAK_NITS])) == pytest.approx([WHITE_NITS])


def test_a_colour_that_bt709_has_comes_back_as_it_was() -> None:
    linear_709 = np.array([0.10, 0.30, 0.05])  # of white
    nits_2020 = np.linalg.inv(TO_BT709.astype(np.float64)) @ linear_709 * WHITE_NITS
    code = (pq_signal(nits_2020) * 65535).round().astype(np.uint16)[None, None]
    assert to_sdr(code, "pq")[0, 0] == pytest.approx(srgb_signal(linear_709) * 255, abs=1.5)


def test_hues_outside_of_bt709_are_clipped_and_not_wrapped() -> None:
    code = np.array([[[0, 40_000, 0]]], np.uint16)  # a green that only BT.2020 has
    red, green, blue = to_sdr(code, "pq")[0, 0]
    assert (red, blue) == (0, 0) and green > 150


@pytest.mark.parametrize(("name", "steps"), [("pq", PQ_STEPS), ("hlg", HLG_STEPS)])
def test_a_clip_of_grey_steps_comes_out_as_the_formulas_say(odd: Odd, name: str, steps: tuple[float, ...]) -> None:
    signal = pq_signal(np.array(steps)) if name == "pq" else hlg_signal(np.array(steps))
    wanted = exact(np.repeat(signal[:, None], 3, axis=1), "pq" if name == "pq" else "hlg")
    with open_video(odd(name).path) as video:
        assert (video.info.transfer, video.info.bit_depth) == (name, 10)
        [still] = video.take([0.0])
    centres = ((np.arange(len(steps)) + 0.5) * still.rgb.shape[1] / len(steps)).astype(int)
    made = still.rgb[48, centres].astype(int)
    assert np.ptp(made, axis=1).max() <= 3
    assert np.abs(made - wanted).max() <= 4  # ten bits and a lossy codec lie between
    assert (np.diff(made[:, 1]) > 0).all()
