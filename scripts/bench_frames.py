"""Measures how fast stills come out of a video: ours against plain OpenCV and PyAV loops, same file, same frames.

Makes 60 s of 1080p30 H.264 (High, B-frames) twice, with a key frame every 250 and every 30 frames at least, and wants
one frame a second. All methods take turns, and the best turn of each counts. Before that it checks that our time stamps
are those that were drawn and that our pixels equal those of a PyAV that skips nothing and converts with care. The plain
loops convert as quickly as their libraries can, which is darker by one level and coarser in colour.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.codec.context import ThreadType
from rich.console import Console
from rich.table import Table

from pipelines.video.decoding import open_video
from pipelines.video.painting import ACCURATE

FPS, SIZE_PX = 30, (1920, 1080)
GOPS = (250, 30)
SURVEY_HZ, SURVEY_SIDE_PX = 8.0, 320
SCENES_S = (9, 4, 13, 6, 8, 5, 11, 4)  # over and over; every second one is shot by an unsteady hand
NOISE_SIGMA = 2.5  # of the camera; to pictures without any, x264 gives hardly a B-frame, unlike to those of cameras
NUM_BITS, CELL_PX = 16, 48
MIN_RATIO = 2.0  # of our frames per second to those of the plain loop

Pixels = np.ndarray
Method = Callable[[Path], int]  # → pictures made


@dataclass(frozen=True)
class Row:
    """One method on one file."""

    method: str
    gop: int
    seconds: float
    cpu_s: float  # of all cores together: on a busy machine the steadier figure
    wanted_per_s: float
    ratio: float  # to the plain OpenCV loop of the same run


class CheckFailed(Exception):
    """What came out is not what was drawn, so its speed is of no interest."""


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="darkroom-bench-") as folder:
        for gop in GOPS:
            path = Path(args.keep or folder) / f"bench-{args.seconds}s-gop{gop}.mp4"
            if not path.exists():
                print(f"drawing {path.name} …", file=sys.stderr)
                draw_clip(path, gop=gop, num_frames=args.seconds * FPS, preset=args.preset)
            try:
                check(path, args.seconds)
            except CheckFailed as error:
                print(f"not measured: {error}", file=sys.stderr)
                return 2
            rows += measure(path, gop, num_runs=args.runs, num_wanted=args.seconds)
    is_met = all(row.ratio >= MIN_RATIO for row in rows if row.method == "Video.take")
    show(rows, is_met=is_met)
    if args.json is not None:
        write_json(args.json, rows, args, is_met=is_met)
    return 1 if args.check and not is_met else 0


def measure(path: Path, gop: int, *, num_runs: int, num_wanted: int) -> list[Row]:
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in METHODS}
    for _ in range(num_runs):
        for name, method in METHODS.items():
            started_s, started_cpu_s = time.perf_counter(), time.process_time()
            method(path)
            turns[name].append((time.perf_counter() - started_s, time.process_time() - started_cpu_s))
    best = {name: np.array(measured).min(axis=0).tolist() for name, measured in turns.items()}
    plain_s, _ = best["OpenCV read"]
    return [
        Row(name, gop, round(s, 3), round(cpu_s, 3), round(num_wanted / s, 1), round(plain_s / s, 2))
        for name, (s, cpu_s) in best.items()
    ]


def opencv_read(path: Path) -> int:
    """What most scripts do: every frame is decoded and converted, every 30th is kept."""
    capture, index, kept = cv2.VideoCapture(str(path)), 0, 0
    while True:
        is_read, picture = capture.read()
        if not is_read:
            return kept
        kept += bool(index % FPS == 0 and picture.size)
        index += 1


def opencv_grab(path: Path) -> int:
    """Every frame is decoded, every 30th converted."""
    capture, index, kept = cv2.VideoCapture(str(path)), 0, 0
    while capture.grab():
        kept += bool(index % FPS == 0 and capture.retrieve()[0])
        index += 1
    return kept


def pyav_all(path: Path) -> int:
    """Every frame is decoded, by all cores, and converted."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        pictures = (frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))
        return sum(index % FPS == 0 and picture.size > 0 for index, picture in enumerate(pictures))


def ours_take(path: Path) -> int:
    with open_video(path) as video:
        return sum(1 for _ in video.take(wanted_s(video.info.duration_s)))


def ours_survey(path: Path) -> int:
    """Eight small pictures for each second, which is more than the others are asked for."""
    with open_video(path) as video:
        return sum(1 for _ in video.survey(SURVEY_HZ, SURVEY_SIDE_PX))


METHODS: dict[str, Method] = {
    "OpenCV read": opencv_read,
    "OpenCV grab": opencv_grab,
    "PyAV, all": pyav_all,
    "Video.take": ours_take,
    "Video.survey 8/s": ours_survey,
}


def wanted_s(duration_s: float) -> list[float]:
    return [float(second) for second in range(round(duration_s))]


def check(path: Path, seconds: int) -> None:
    """Time stamps against what was drawn, pixels against a decode that skips nothing."""
    with av.open(str(path)) as container, open_video(path) as video:
        plain = (frame for index, frame in enumerate(container.decode(video=0)) if index % FPS == 0)
        count = 0
        for still, frame in zip(video.take(wanted_s(video.info.duration_s)), plain, strict=True):
            drawn = read_number(still.rgb)
            if drawn != count * FPS or abs(still.time_s - count) > 1e-9:
                raise CheckFailed(f"{path.name}: frame {drawn} came as the one shown at {still.time_s} s")
            if not np.array_equal(still.rgb, frame.to_ndarray(format="rgb24", interpolation=ACCURATE)):
                raise CheckFailed(f"{path.name}: the pixels of frame {drawn} are not those of a plain decoder")
            count += 1
        if count != seconds:
            raise CheckFailed(f"{path.name}: {count} pictures instead of {seconds}")
        for still in video.survey(SURVEY_HZ, SURVEY_SIDE_PX):
            drawn = read_number(cv2.resize(still.rgb, SIZE_PX))
            if abs(still.time_s - drawn / FPS) > 1e-6:
                raise CheckFailed(f"{path.name}: the survey has frame {drawn} at {still.time_s} s")


def draw_clip(path: Path, *, gop: int, num_frames: int, preset: str) -> None:
    """Scenes of textures in which something moves, hard cuts between them, and the frame's number on top."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(
            "libx264", rate=FPS, options={"preset": preset, "crf": "23", "profile": "high"}
        )
        stream.width, stream.height = SIZE_PX
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.thread_type = ThreadType.FRAME  # slices would make it another kind of file
        context.gop_size, context.max_b_frames = gop, 3
        context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1  # BT.709, limited
        for index, picture in enumerate(pictures(num_frames)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p", dst_colorspace=1)
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def pictures(num_frames: int) -> Any:  # noqa: ANN401 - an iterator of arrays
    width_px, height_px = SIZE_PX
    rng = np.random.default_rng(0)
    noises = [(rng.standard_normal((height_px, width_px, 1)) * NOISE_SIGMA).astype(np.int16) for _ in range(5)]
    index = scene = 0
    while index < num_frames:
        background = texture(2 * scene, width_px + 160, height_px + 120)
        subject = texture(2 * scene + 1, 500, 700)
        for step in range(SCENES_S[scene % len(SCENES_S)] * FPS):
            if index == num_frames:
                return
            shake = 1.0 if scene % 2 else 0.0
            left_px = round(80 + shake * (40 * np.sin(step / 37) + 6 * np.sin(step / 5)))
            top_px = round(60 + shake * (30 * np.cos(step / 41) + 4 * np.sin(step / 7)))
            picture = background[top_px : top_px + height_px, left_px : left_px + width_px].copy()
            x_px = round(width_px / 2 - 250 + 400 * np.sin(step / 45 + scene))
            picture[300:1000, x_px : x_px + 500] = subject
            yield with_number((picture + noises[index % len(noises)]).clip(0, 255).astype(np.uint8), index)
            index += 1
        scene += 1


def texture(seed: int, width_px: int, height_px: int) -> Pixels:
    """Coarse to fine noise, as in landscapes and cloth."""
    rng = np.random.default_rng(seed)
    picture = np.full((height_px, width_px, 3), rng.uniform(80, 170, 3), np.float32)
    for cells, strength in ((6, 40), (24, 25), (96, 14), (384, 7)):
        noise = rng.standard_normal((max(2, cells * height_px // width_px), cells, 3)).astype(np.float32)
        picture += strength * cv2.resize(noise, (width_px, height_px), interpolation=cv2.INTER_CUBIC)
    return picture.clip(0, 255).astype(np.uint8)


def with_number(picture: Pixels, number: int) -> Pixels:
    for bit in range(NUM_BITS):
        cell = slice(CELL_PX * (2 + 2 * bit), CELL_PX * (4 + 2 * bit))
        picture[2 * CELL_PX : 4 * CELL_PX, cell] = 235 if number >> (NUM_BITS - 1 - bit) & 1 else 20
    return picture


def read_number(picture: Pixels) -> int:
    centres = CELL_PX * (3 + 2 * np.arange(NUM_BITS))
    bits = picture[3 * CELL_PX - 8 : 3 * CELL_PX + 8, centres].mean(axis=(0, 2)) > 128
    return int("".join("1" if bit else "0" for bit in bits), 2)


def show(rows: Sequence[Row], *, is_met: bool) -> None:
    table = Table("method", "GOP", "s", "CPU s", "wanted frames / s", "× OpenCV read", title="stills out of 1080p30")
    for row in rows:
        figures = f"{row.seconds:.2f}", f"{row.cpu_s:.2f}", f"{row.wanted_per_s:.1f}", f"{row.ratio:.2f}"
        table.add_row(row.method, str(row.gop), *figures)
    Console().print(table)
    print(f"{'reached' if is_met else 'MISSED'}: Video.take at least {MIN_RATIO:g} × the plain OpenCV loop")


def write_json(path: Path, rows: Sequence[Row], args: argparse.Namespace, *, is_met: bool) -> None:
    figures = {
        "rows": [asdict(row) for row in rows],
        "is_met": is_met,
        "seconds": args.seconds,
        "runs": args.runs,
        "preset": args.preset,
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine()},
        "versions": {"av": version("av"), "opencv": cv2.__version__, "ffmpeg": av.ffmpeg_version_info},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="length of the video")
    parser.add_argument("--runs", type=int, default=3, help="turns of each method; the best counts")
    parser.add_argument("--preset", default="medium", help="of x264: slower ones make files that are harder to decode")
    parser.add_argument("--keep", type=Path, help="folder for the videos, to find them there the next time")
    parser.add_argument("--json", type=Path, help="figures as JSON")
    parser.add_argument("--check", action="store_true", help="exit 1 where the aim is missed")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
