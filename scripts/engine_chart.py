"""Draws the engine bench's figures as a PNG: bars for throughput, lines for latency by load. Measures nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH_PX, HEIGHT_PX = 1200, 520
SCALE = 2  # drawn larger and shrunk, so that slanted lines are smooth
INK, FAINT, PAPER = "#222222", "#d8d8d8", "#ffffff"
COLOURS = {"A": "#9aa5b1", "B": "#5b8def", "ours": "#e4572e"}
LEGENDS = {"A": "A  diffusers, one by one", "B": "B  diffusers, equal requests together", "ours": "ours"}
FONT_PX = 17

Colour = str
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """One curve of the latency chart: seconds by load."""

    system: str  # a key of COLOURS
    points: Sequence[Point]
    is_dashed: bool = False


class Canvas:
    """Drawing in the pixels of the finished picture."""

    def __init__(self) -> None:
        self._image = Image.new("RGB", (WIDTH_PX * SCALE, HEIGHT_PX * SCALE), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def text(self, at: Point, words: str, *, anchor: str = "la", size_px: int = FONT_PX, colour: Colour = INK) -> None:
        font = ImageFont.load_default(size_px * SCALE)
        self._draw.text(_scaled(at), words, font=font, anchor=anchor, fill=colour)

    def box(self, corner: Point, opposite: Point, colour: Colour) -> None:
        self._draw.rectangle([_scaled(corner), _scaled(opposite)], fill=colour)

    def line(self, start: Point, end: Point, colour: Colour, *, width_px: float = 1, is_dashed: bool = False) -> None:
        length_px = math.dist(start, end)
        num_pieces = max(1, round(length_px / 7)) if is_dashed else 1
        for piece in range(0, num_pieces, 2):
            from_, to = (_between(start, end, share / num_pieces) for share in (piece, piece + 1))
            self._draw.line([_scaled(from_), _scaled(to)], fill=colour, width=round(width_px * SCALE))

    def dot(self, at: Point, colour: Colour, *, is_hollow: bool = False) -> None:
        fill = PAPER if is_hollow else colour
        self._draw.circle(_scaled(at), 4.5 * SCALE, fill=fill, outline=colour, width=2 * SCALE)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._image.resize((WIDTH_PX, HEIGHT_PX), Image.Resampling.LANCZOS).save(path, optimize=True)


def draw(path: Path, *, title: str, throughput: Mapping[str, float], latency: Sequence[Line]) -> None:
    """Writes the chart. `throughput`: pictures a second in a burst, by system; what is empty is left out."""
    canvas = Canvas()
    canvas.text((40, 22), title, size_px=20)
    for index, (system, legend) in enumerate(LEGENDS.items()):
        left_px = 40 + 330 * index + (60 if index == 2 else 0)
        canvas.box((left_px, 66), (left_px + 14, 80), COLOURS[system])
        canvas.text((left_px + 24, 73), legend, anchor="lm")
    if throughput:
        _draw_bars(canvas, throughput)
    if latency:
        _draw_lines(canvas, latency)
    canvas.save(path)


def _draw_bars(canvas: Canvas, throughput: Mapping[str, float]) -> None:
    left_px, right_px, top_px, bottom_px = 70.0, 440.0, 160.0, 450.0
    canvas.text((left_px - 30, 108), "burst: throughput, A = 1")
    base = throughput.get("A") or max(throughput.values())
    ratios = {system: value / base for system, value in throughput.items()}
    highest = max(1.0, *ratios.values())
    step_px = (right_px - left_px) / len(ratios)
    for index, (system, ratio) in enumerate(ratios.items()):
        start_px = left_px + index * step_px + step_px * 0.15
        bar_top_px = bottom_px - (bottom_px - top_px) * ratio / highest
        canvas.box((start_px, bar_top_px), (start_px + step_px * 0.7, bottom_px), COLOURS[system])
        middle_px = start_px + step_px * 0.35
        canvas.text((middle_px, bar_top_px - 6), f"{ratio:.2f}", anchor="mb", size_px=20)
        canvas.text((middle_px, bottom_px + 10), system, anchor="ma")
        canvas.text((middle_px, bottom_px + 32), f"{throughput[system]:.2f} / s", anchor="ma", size_px=14)
    canvas.line((left_px, bottom_px), (right_px, bottom_px), INK)


def _draw_lines(canvas: Canvas, latency: Sequence[Line]) -> None:
    left_px, right_px, top_px, bottom_px = 590.0, 1140.0, 145.0, 450.0
    canvas.text((left_px - 50, 108), "latency in s by load (share of A's capacity); p95 solid, p50 dashed")
    loads = sorted({load for line in latency for load, _ in line.points})
    values_s = [value_s for line in latency for _, value_s in line.points]
    ticks_s = _ticks(min(values_s), max(values_s))
    low, high = math.log(ticks_s[0]), math.log(ticks_s[-1])
    step_px = (right_px - left_px) / len(loads)

    def place(load: float, value_s: float) -> Point:
        share = (math.log(value_s) - low) / (high - low)
        return left_px + step_px * (loads.index(load) + 0.5), bottom_px - (bottom_px - top_px) * share

    for tick_s in ticks_s:
        height_px = place(loads[0], tick_s)[1]
        canvas.line((left_px, height_px), (right_px, height_px), FAINT)
        canvas.text((left_px - 8, height_px), f"{tick_s:g}", anchor="rm", size_px=14)
    for load in loads:
        canvas.text((place(load, ticks_s[0])[0], bottom_px + 10), f"{load:g}", anchor="ma")
    for line in latency:
        places = [place(*point) for point in sorted(line.points)]
        colour = COLOURS[line.system]
        for start, end in zip(places, places[1:], strict=False):
            canvas.line(start, end, colour, width_px=2.5, is_dashed=line.is_dashed)
        for at in places:
            canvas.dot(at, colour, is_hollow=line.is_dashed)


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from below `low` to above `high`."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
    start = max(index for index, tick in enumerate(ticks) if tick <= low)
    end = min(index for index, tick in enumerate(ticks) if tick >= high)
    return ticks[start : max(end, start + 1) + 1]


def _between(start: Point, end: Point, share: float) -> Point:
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share


def _scaled(at: Point) -> Point:
    return at[0] * SCALE, at[1] * SCALE
