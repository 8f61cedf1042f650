"""Makes small video files that are odd in one known way each, and knows what every frame of them shows and when.

`make_clip(path, fps=30, seconds=2.0, rotation=90, …)` makes one; its words are the fields of `Track`. `ODDITIES` has
ready-made ones by name: `ODDITIES["rotated-90"](folder)`.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.filter import Graph
from av.stream import Disposition

from tests import drawings
from tests.drawings import Draw

FINE = Fraction(1, 90_000)  # clock of clips whose frames have times of their own
SWS_MATRIX = {1: 1, 6: 5, 9: 9}  # the scaler's numbers for BT.709, BT.601 and BT.2020
PQ, HLG = 16, 18
BT709, BT601, BT2020 = 1, 6, 9
LIMITED, FULL = 1, 2
QUIET: dict[str, dict[str, str]] = {
    "libx264": {"preset": "veryfast", "crf": "16", "threads": "1"},
    "libx265": {"preset": "ultrafast", "crf": "16", "x265-params": "log-level=none:pools=1"},
    "libsvtav1": {"preset": "11", "crf": "20"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "16", "b": "2000000"},
}


@dataclass(frozen=True, kw_only=True)
class Track:
    """One video stream: how it is drawn, encoded and labelled."""

    codec: str = "libx264"
    size: tuple[int, int] = (160, 96)  # as a player shows it, but for the pixel aspect
    fps: int | Fraction = 30
    seconds: float = 2.0
    times: Sequence[float] | None = None  # of each frame, instead of fps and seconds
    draw: Draw = drawings.quadrants
    pix_fmt: str = "yuv420p"
    options: Mapping[str, str] = field(default_factory=dict)
    gop: int = 30
    num_b_frames: int = 0
    rotation: int = 0  # clockwise degrees that a player has to turn the stored picture by
    is_mirrored: bool = False  # and, before that, flip left to right
    pixel_aspect: Fraction = Fraction(1)
    matrix: int = BT709
    primaries: int = BT709
    transfer: int = BT709
    color_range: int = LIMITED
    start_s: float = 0.0
    is_interlaced: bool = False  # frame i is woven of draw(2i), upper lines, and draw(2i + 1)
    is_default: bool = False
    is_cover: bool = False  # a picture that goes with sound

    @property
    def times_s(self) -> tuple[float, ...]:
        """When each frame is shown, zero at the first."""
        if self.times is not None:
            return tuple(time_s - self.times[0] for time_s in self.times)
        return tuple(float(index / Fraction(self.fps)) for index in range(round(self.seconds * self.fps)))


@dataclass(frozen=True)
class Clip:
    """A file and what is in it, as a player shows it."""

    path: Path
    times_s: tuple[float, ...]
    track: Track

    def draw(self, index: int) -> Any:
        """What frame `index` was made from, upright."""
        return self.track.draw(2 * index if self.track.is_interlaced else index, *self.track.size)


def make_clip(path: Path, **wishes: Any) -> Clip:
    """A file with one video stream; the ending of `path` decides on the container."""
    return make_file(path, Track(**wishes))


def make_file(path: Path, *tracks: Track, has_sound: bool = False, options: Mapping[str, str] | None = None) -> Clip:
    """A file with several streams; what is said of it is said of the first."""
    with _in_turn(), av.open(str(path), "w", options=dict(options or {})) as container:
        streams = [_add_stream(container, track) for track in tracks]
        sound = container.add_stream("aac", rate=16_000, layout="mono") if has_sound else None
        for track, stream in zip(tracks, streams, strict=True):
            for frame in _frames(track):
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        if sound is not None:
            _hum(container, sound)
    first = tracks[0] if tracks else Track(seconds=0.0)
    return Clip(path, first.times_s, first)


@contextmanager
def _in_turn() -> Iterator[None]:
    """As root, SVT-AV1 gives the calling thread real-time priority over the whole machine, and so all its children."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def _hum(container: Any, sound: Any) -> None:
    for block in range(16):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, block * 1024
        container.mux(sound.encode(frame))
    container.mux(sound.encode(None))


def _add_stream(container: Any, track: Track) -> Any:
    options = QUIET.get(track.codec, {}) | dict(track.options)
    stream = container.add_stream(track.codec, rate=Fraction(track.fps).limit_denominator(100_000), options=options)
    width_px, height_px = track.size if track.rotation % 180 == 0 else track.size[::-1]
    stream.width, stream.height, stream.pix_fmt = width_px, height_px, track.pix_fmt
    context = stream.codec_context
    context.time_base = _clock(track)
    context.gop_size, context.max_b_frames = track.gop, track.num_b_frames
    context.sample_aspect_ratio = track.pixel_aspect
    context.colorspace, context.color_primaries = track.matrix, track.primaries
    context.color_trc, context.color_range = track.transfer, track.color_range
    if track.codec == "mpeg2video":
        context.bit_rate = 3_000_000
    if track.is_interlaced:
        context.flags |= int(av.codec.context.Flags.interlaced_dct) | int(av.codec.context.Flags.interlaced_me)
    if track.rotation or track.is_mirrored:
        # Counter-clockwise, and it flips last; flipped first, the turn goes the other way round.
        degrees = track.rotation if track.is_mirrored else -track.rotation
        stream.set_display_rotation(degrees, hflip=track.is_mirrored)
    if track.is_default or track.is_cover:
        stream.disposition = Disposition.default if track.is_default else Disposition.attached_pic
    return stream


def _clock(track: Track) -> Fraction:
    return FINE if track.times is not None else 1 / Fraction(track.fps)


def _frames(track: Track) -> Any:
    clock, graph = _clock(track), None
    for index, time_s in enumerate(track.times_s):
        frame = _encodable(_stored(_picture(track, index), track), track)
        frame.time_base, frame.pts = clock, round((time_s + track.start_s) / clock)
        if track.is_interlaced:
            graph = graph or _field_marker(frame)
            graph.push(frame)
            frame = graph.pull()
        yield frame


def _picture(track: Track, index: int) -> np.ndarray:
    if not track.is_interlaced:
        return track.draw(index, *track.size)
    woven = track.draw(2 * index, *track.size).copy()
    woven[1::2] = track.draw(2 * index + 1, *track.size)[1::2]
    return woven


def _stored(picture: np.ndarray, track: Track) -> np.ndarray:
    """The picture as it lies in the file: turned and flipped back, so that the player's turn makes it upright."""
    turned = np.rot90(picture, track.rotation // 90)  # counter-clockwise
    return np.ascontiguousarray(turned[:, ::-1] if track.is_mirrored else turned)


def _encodable(stored: np.ndarray, track: Track) -> Any:
    frame = av.VideoFrame.from_ndarray(stored, format="rgb48le" if stored.dtype == np.uint16 else "rgb24")
    return frame.reformat(
        format=track.pix_fmt,
        dst_colorspace=SWS_MATRIX[track.matrix],
        dst_color_range=track.color_range,
        interpolation=int(av.video.reformatter.Interpolation.BICUBIC)
        | int(av.video.reformatter.Interpolation.ACCURATE_RND),
    )


def _field_marker(frame: Any) -> Graph:
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base, name="in"
    )
    graph.link_nodes(source, graph.add("setfield", "tff"), graph.add("buffersink")).configure()
    return graph


def uneven_times(num_frames: int) -> list[float]:
    """Frames that come 10 to 90 ms after one another, in no rhythm, in whole milliseconds."""
    gaps_ms = np.random.default_rng(5).integers(10, 90, num_frames - 1)
    return [0.0, *(np.cumsum(gaps_ms) / 1000).tolist()]


def pq_signal(nits: float | np.ndarray) -> np.ndarray:
    """SMPTE ST 2084, inverse EOTF: light of 0 to 10,000 nits → signal of 0 to 1."""
    powered = (np.asarray(nits, np.float64) / 10_000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * powered) / (1 + 2392 / 128 * powered)) ** (2523 / 32)


def hlg_signal(scene: float | np.ndarray) -> np.ndarray:
    """ITU-R BT.2100, OETF of HLG: scene light of 0 to 1 → signal of 0 to 1."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    light = np.asarray(scene, np.float64)
    return np.where(light <= 1 / 12, np.sqrt(3 * light), a * np.log(np.maximum(12 * light - b, 1e-9)) + c)


def grey_steps(levels: Sequence[float], signal: Callable[[np.ndarray], np.ndarray]) -> Draw:
    """Upright grey stripes of equal width, one for each level of light, darkest to the left when sorted."""

    def draw(_: int, width_px: int, height_px: int) -> np.ndarray:
        stripes = np.repeat(signal(np.asarray(levels)), -(-width_px // len(levels)))[:width_px]
        return np.broadcast_to((stripes * 65535).round()[None, :, None], (height_px, width_px, 3)).astype(np.uint16)

    return draw


def damage(clip: Clip, *, shares: Sequence[float] = (0.4, 0.6, 0.8), num_bytes: int = 400) -> Clip:
    """The file with stretches overwritten, each so far in."""
    data = bytearray(clip.path.read_bytes())
    noise = np.random.default_rng(9).integers(0, 256, num_bytes, dtype=np.uint8).tobytes()
    for share in shares:
        start = int(len(data) * share)
        data[start : start + num_bytes] = noise
    clip.path.write_bytes(data)
    return clip


def cut_off(clip: Clip, *, share: float) -> Clip:
    """The file's first `share` and no more."""
    data = clip.path.read_bytes()
    clip.path.write_bytes(data[: int(len(data) * share)])
    return clip


Recipe = Callable[[Path], Clip]


def _a(name: str, **wishes: Any) -> Recipe:
    return lambda folder: make_clip(folder / name, **wishes)


PQ_STEPS = (0.0, 1.0, 5.0, 26.0, 100.0, 203.0, 500.0, 1000.0)  # nits; 26 is a grey card, 203 white paper (BT.2408)
HLG_STEPS = (0.0, 0.002, 0.01, 0.0368, 0.1, 0.2646, 0.55, 1.0)  # scene light; 0.2646 is white paper (signal 75 %)
WIDE = dict(matrix=BT2020, primaries=BT2020, pix_fmt="yuv420p10le", codec="libx265", seconds=0.5)
B_FRAMES = dict(num_b_frames=3, options={"x264-params": "b-adapt=0:b-pyramid=normal"})

ODDITIES: dict[str, Recipe] = {
    "plain": _a("plain.mp4"),
    "rotated-90": _a("rotated-90.mp4", size=(96, 160), rotation=90),
    "rotated-180": _a("rotated-180.mp4", rotation=180),
    "rotated-270": _a("rotated-270.mov", size=(96, 160), rotation=270),
    "mirrored": _a("mirrored.mp4", is_mirrored=True),
    "variable-rate": _a("variable-rate.mp4", times=uneven_times(60), **B_FRAMES),
    "ten-bit": _a("ten-bit.mp4", codec="libx265", pix_fmt="yuv420p10le", seconds=0.5),
    "pq": _a("pq.mp4", transfer=PQ, draw=grey_steps(PQ_STEPS, pq_signal), **WIDE),
    "hlg": _a("hlg.mp4", transfer=HLG, draw=grey_steps(HLG_STEPS, hlg_signal), **WIDE),
    "av1": _a("av1.mp4", codec="libsvtav1", seconds=1.0),
    "vp9": _a("vp9.webm", codec="libvpx-vp9", seconds=1.0),
    "mjpeg": _a("mjpeg.avi", codec="mjpeg", pix_fmt="yuvj420p", color_range=FULL, matrix=BT601, seconds=1.0),
    "mpeg2-ts": _a("mpeg2.ts", codec="mpeg2video", fps=25, num_b_frames=2, gop=12, start_s=3600.0),
    "b-frames": _a("b-frames.mp4", **B_FRAMES),
    "damaged": lambda folder: damage(make_clip(folder / "damaged.mp4", seconds=4.0, draw=drawings.cuts)),
    "headless": lambda folder: cut_off(make_clip(folder / "headless.mp4"), share=0.8),  # the index was at the end
    "cut-off": lambda folder: cut_off(
        make_file(folder / "cut-off.mp4", Track(), options={"movflags": "faststart"}), share=0.7
    ),
    "letterbox": _a("letterbox.mp4", draw=drawings.letterboxed),
    "pillarbox": _a("pillarbox.mp4", draw=drawings.pillarboxed),
    "dark": _a("dark.mp4", draw=drawings.dark),
    "interlaced": _a("interlaced.mp4", is_interlaced=True, draw=drawings.sliding_bar, fps=25),
    "still-minute": _a("still-minute.mp4", draw=drawings.still, fps=5, seconds=60.0),
    "cuts": _a("cuts.mp4", draw=drawings.cuts, seconds=6.0),
    "full-range": _a("full-range.mp4", color_range=FULL, pix_fmt="yuvj420p"),
    "bt601": _a("bt601.mp4", matrix=BT601, primaries=BT601, transfer=BT601),
    "wide-pixels": _a("wide-pixels.mp4", pixel_aspect=Fraction(4, 3)),
    "several-streams": lambda folder: make_file(
        folder / "several.mp4", Track(), Track(size=(64, 64), draw=drawings.still), has_sound=True
    ),
    "sound-only": lambda folder: make_file(folder / "sound.m4a", has_sound=True),
}
