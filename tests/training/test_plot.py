"""How the loss went, as a picture and as data."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.plot import BASE, KEPT, VALIDATED, LossCurves, draw_loss, nice_ticks, smoothed, write_loss_data

TRAINING = tuple((step, 0.2 - step / 1000 + 0.03 * (-1) ** step) for step in range(1, 101))
CURVES = LossCurves(TRAINING, ((25, 0.21), (50, 0.16), (75, 0.15), (100, 0.17)), 0.25, 75)


def pixels_of(path: Path, colour: str) -> np.ndarray:
    """[N, 2]: x and y of the pixels that are of about this colour."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    near = np.abs(np.asarray(Image.open(path), dtype=int) - wanted).sum(axis=-1) < 40
    return np.argwhere(near)[:, ::-1]


def test_the_plot_shows_each_curve_in_its_place(tmp_path: Path) -> None:
    draw_loss(tmp_path / "loss.png", CURVES)
    with Image.open(tmp_path / "loss.png") as image:
        assert image.size == (900, 500)
    # The base's loss is above all that came after it, and the kept step is three quarters to the right.
    assert np.median(pixels_of(tmp_path / "loss.png", BASE)[:, 1]) < np.median(
        pixels_of(tmp_path / "loss.png", VALIDATED)[:, 1]
    )
    line = pixels_of(tmp_path / "loss.png", KEPT)
    assert np.median(line[:, 0]) == pytest.approx(78 + 0.75 * (876 - 78), abs=3)


def test_equal_curves_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_loss(tmp_path / f"{name}.png", CURVES)
        write_loss_data(tmp_path / f"{name}.json", CURVES)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    "curves",
    [
        LossCurves((), (), 0.2, 0),
        LossCurves(((1, 0.3),), ((1, 0.2),), 0.2, 1),
        LossCurves(((1, 1e-9), (2, float("nan")), (3, 1e6)), ((3, float("inf")),), 0.0, 3),
    ],
    ids=["nothing", "one step", "beyond all bounds"],
)
def test_any_curve_can_be_drawn(curves: LossCurves, tmp_path: Path) -> None:
    draw_loss(tmp_path / "loss.png", curves)
    assert (tmp_path / "loss.png").stat().st_size > 1_000


def test_the_data_holds_every_point(tmp_path: Path) -> None:
    write_loss_data(tmp_path / "loss.json", CURVES)
    data = json.loads((tmp_path / "loss.json").read_text())
    assert [tuple(point) for point in data["training_loss"]] == list(TRAINING)
    assert data["validation_loss"][2] == [75, 0.15]
    assert (data["base_validation_loss"], data["kept_step"]) == (0.25, 75)
    assert len(data["training_loss_smoothed"]) == 100


def test_smoothing_keeps_a_level_and_calms_what_jumps() -> None:
    assert [value for _, value in smoothed(tuple((step, 2.0) for step in range(100)))] == pytest.approx([2.0] * 100)
    raw, calm = ([value for _, value in curve] for curve in (TRAINING, smoothed(TRAINING)))
    assert np.abs(np.diff(calm)).mean() < 0.3 * np.abs(np.diff(raw)).mean()
    assert calm[-1] == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(("low", "high"), [(0, 800), (0.141, 0.2531), (1234, 1236), (3, 3), (0, 0), (-1e-7, 1e-7)])
def test_ticks_are_round_and_hold_all_values(low: float, high: float) -> None:
    ticks = nice_ticks(low, high, 5)
    step = ticks[1] - ticks[0]
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + 1e-6 * step and ticks[-1] >= high - 1e-6 * step
    assert np.diff(ticks) == pytest.approx(step)
    assert float(f"{step:.0e}"[0]) in (1, 2, 5)
