"""Draws how the loss went as a PNG, and writes the same as JSON. Equal curves are equal bytes; measures nothing.

Two charts over the same steps, since the loss that is learned from is weighted and the one that is validated is not.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipelines.request import Curve

WIDTH_PX, HEIGHT_PX = 900, 500
LEFT_PX, RIGHT_PX = 78, 876
SCALE = 2  # drawn larger and shrunk, so that slanted lines are smooth
INK, FAINT, PAPER = "#222222", "#e2e2e2", "#ffffff"
THIN, BOLD, VALIDATED, BASE, KEPT = "#c3cfe6", "#2f5fc4", "#d9480f", "#7a7a7a", "#2b8a3e"
FONT_PX, TITLE_PX = 14, 16
NUM_TICKS = 5
SMOOTHED_OVER = 20  # a smoothed value looks back over about a twentieth of all points

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class LossCurves:
    """All that is drawn; (step, loss)."""

    training: Curve
    validation: Curve
    base_validation: float  # of the model without the adapter
    kept_step: int  # whose weights are published


def write_loss_data(path: Path, curves: LossCurves) -> None:
    """The curves as one JSON object, the smoothed one beside the raw one."""
    data = {
        "training_loss": curves.training,
        "training_loss_smoothed": smoothed(curves.training),
        "validation_loss": curves.validation,
        "base_validation_loss": curves.base_validation,
        "kept_step": curves.kept_step,
    }
    path.write_text(json.dumps(data, indent=1) + "\n")


def smoothed(curve: Curve) -> Curve:
    """Exponential mean, its start corrected as Adam's moments are (Kingma and Ba, arXiv 1412.6980, section 3)."""
    decay = 1 - 1 / max(1.0, len(curve) / SMOOTHED_OVER)
    mean, weight = 0.0, 0.0
    points = []
    for step, value in curve:
        mean, weight = decay * mean + (1 - decay) * value, decay * weight + (1 - decay)
        points.append((step, mean / weight))
    return tuple(points)


def draw_loss(path: Path, curves: LossCurves) -> None:
    """A PNG of 900 × 500."""
    last_step = max([1, curves.kept_step, *(step for step, _ in (*curves.training, *curves.validation))])
    canvas = _Canvas()
    soft = smoothed(curves.training)
    calm = sorted(value for _, value in curves.training)[: math.ceil(0.98 * len(curves.training))]
    upper = _Chart(canvas, 52, 226, last_step, [*calm, *(value for _, value in soft)])
    upper.axes("Training loss, as weighted by the recipe", has_steps=False)
    upper.curve(curves.training, THIN, width_px=1)
    upper.curve(soft, BOLD, width_px=2)
    canvas.key([("each step", THIN, "line"), ("smoothed", BOLD, "line"), ("kept", KEPT, "dashes")], 26)
    lower = _Chart(canvas, 290, 448, last_step, [curves.base_validation, *(value for _, value in curves.validation)])
    lower.axes("Validation loss on held-out pictures", has_steps=True)
    lower.level(curves.base_validation, BASE)
    lower.curve(curves.validation, VALIDATED, width_px=2)
    for point in curves.validation:
        lower.dot(point, VALIDATED)
    canvas.key([("with the adapter", VALIDATED, "line"), ("base model", BASE, "dashes")], 264)
    for chart in (upper, lower):
        chart.mark(curves.kept_step, KEPT)
    canvas.text((RIGHT_PX, HEIGHT_PX - 8), f"kept: step {curves.kept_step:,}", anchor="rs", colour=KEPT)
    canvas.save(path)


class _Canvas:
    """Drawing in the pixels of the finished picture."""

    def __init__(self) -> None:
        self._image = Image.new("RGB", (WIDTH_PX * SCALE, HEIGHT_PX * SCALE), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def text(self, at: Point, words: str, *, anchor: str, size_px: int = FONT_PX, colour: str = INK) -> float:
        """How wide it is."""
        font = ImageFont.load_default(size_px * SCALE)
        self._draw.text(_scaled(at), words, font=font, anchor=anchor, fill=colour)
        return float(self._draw.textlength(words, font=font)) / SCALE

    def line(self, points: Sequence[Point], colour: str, *, width_px: float = 1) -> None:
        self._draw.line([_scaled(point) for point in points], colour, round(width_px * SCALE), joint="curve")

    def dashes(self, start: Point, end: Point, colour: str) -> None:
        num_pieces = max(1, round(math.dist(start, end) / 6))
        for piece in range(0, num_pieces, 2):
            self.line([_between(start, end, (piece + i) / num_pieces) for i in (0, 1)], colour, width_px=1.5)

    def dot(self, at: Point, colour: str) -> None:
        self._draw.circle(_scaled(at), 3.5 * SCALE, fill=colour)

    def key(self, entries: Sequence[tuple[str, str, str]], middle_px: float) -> None:
        """What the colours mean, from the right."""
        right_px: float = RIGHT_PX
        for words, colour, kind in reversed(entries):
            right_px -= self.text((right_px, middle_px), words, anchor="rm") + 8
            start, end = (right_px - 24, middle_px), (right_px, middle_px)
            if kind == "dashes":
                self.dashes(start, end, colour)
            else:
                self.line([start, end], colour, width_px=2)
            right_px -= 44

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._image.resize((WIDTH_PX, HEIGHT_PX), Image.Resampling.LANCZOS).save(path, optimize=True)


class _Chart:
    """One pair of axes: steps to the right, losses upwards. What lies beyond is drawn at the edge."""

    def __init__(self, canvas: _Canvas, top_px: int, bottom_px: int, last_step: int, values: Sequence[float]) -> None:
        self._canvas, self._top_px, self._bottom_px, self._last_step = canvas, top_px, bottom_px, last_step
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        self._ticks = nice_ticks(min(finite), max(finite), NUM_TICKS)
        self._low, self._high = self._ticks[0], self._ticks[-1]

    def axes(self, title: str, *, has_steps: bool) -> None:
        canvas = self._canvas
        canvas.text((LEFT_PX, self._top_px - 26), title, anchor="lm", size_px=TITLE_PX)
        for tick in self._ticks:
            height_px = self._place((0, tick))[1]
            canvas.line([(LEFT_PX, height_px), (RIGHT_PX, height_px)], FAINT)
            canvas.text((LEFT_PX - 8, height_px), _label(tick, self._ticks), anchor="rm")
        for step in nice_ticks(0, self._last_step, 8):
            if step <= self._last_step:
                across_px = self._place((step, 0))[0]
                canvas.line([(across_px, self._bottom_px), (across_px, self._bottom_px + 5)], INK)
                if has_steps:
                    canvas.text((across_px, self._bottom_px + 9), f"{step:,.0f}", anchor="ma")
        canvas.line([(LEFT_PX, self._top_px), (LEFT_PX, self._bottom_px), (RIGHT_PX, self._bottom_px)], INK)
        if has_steps:
            canvas.text((LEFT_PX, HEIGHT_PX - 8), "step", anchor="ls")

    def curve(self, curve: Curve, colour: str, *, width_px: float) -> None:
        places = [self._place(point) for point in curve if math.isfinite(point[1])]
        if len(places) > 1:
            self._canvas.line(places, colour, width_px=width_px)

    def dot(self, point: Point, colour: str) -> None:
        if math.isfinite(point[1]):
            self._canvas.dot(self._place(point), colour)

    def level(self, value: float, colour: str) -> None:
        self._canvas.dashes(self._place((0, value)), self._place((self._last_step, value)), colour)

    def mark(self, step: int, colour: str) -> None:
        across_px = self._place((step, 0))[0]
        self._canvas.dashes((across_px, self._bottom_px), (across_px, self._top_px), colour)

    def _place(self, point: Point) -> Point:
        step, value = point
        share = min(1.0, max(0.0, (value - self._low) / (self._high - self._low)))
        across_px = LEFT_PX + (RIGHT_PX - LEFT_PX) * step / self._last_step
        return across_px, self._bottom_px - (self._bottom_px - self._top_px) * share


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, from at most `low` to at least `high`: two or more."""
    spread = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(spread / about))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * about >= spread * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _label(tick: float, ticks: Sequence[float]) -> str:
    """With as many decimals as tell neighbours apart."""
    return f"{tick:.{max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))}f}"


def _between(start: Point, end: Point, share: float) -> Point:
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share


def _scaled(at: Point) -> Point:
    return at[0] * SCALE, at[1] * SCALE
