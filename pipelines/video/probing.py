"""Looks at a video file without going through it: its header, its first picture, its end."""

import contextlib
import itertools
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from pipelines.video.boxes import check_whole
from pipelines.video.container import Source, open_container
from pipelines.video.geometry import shown_size, turn_of
from pipelines.video.info import VideoError, VideoInfo, VideoLimits
from pipelines.video.painting import TRANSFERS, Look
from pipelines.video.sniffing import NUM_BYTES, sniff

MAX_PEEKED = 600  # packets until the first picture: a stream may begin in the middle of a group
MAX_FPS = 1_000
NO_LIMITS = VideoLimits(max_s=math.inf, max_px=sys.maxsize)
DEFAULT_FRAME_S = 0.04  # where nobody knows how long a frame is shown
INTERLACED = {2, 3, 4, 5}  # AVFieldOrder: TT, BB, TB, BT


@dataclass(frozen=True, slots=True)
class Described:
    """What is known of a file, and what is needed to go on with it."""

    info: VideoInfo
    look: Look
    first_pts: int  # of the first shown frame
    time_base: Fraction


def probe(path: Path, limits: VideoLimits) -> VideoInfo:
    """What is in the file; raises VideoError where it is no whole video within the limits."""
    with path.open("rb") as file:
        demuxer = sniff(file.read(NUM_BYTES))
    check_whole(path, demuxer)
    return describe(path, limits).info


def describe(path: Path, limits: VideoLimits = NO_LIMITS) -> Described:
    """Like `probe`, for files of which the end may be missing."""
    with open_container(path) as source:
        stream, claimed_s = source.stream, _claimed_s(source)
        _check_size(source.decoder.width, source.decoder.height, limits)
        _check_duration(claimed_s, limits)
        frame = _first_frame(source)
        look = _look_of(frame, source)
        _check_size(look.width_px, look.height_px, limits)
        first_pts, fps = frame.pts or 0, _fps(stream)
        duration_s = _duration_s(source, first_pts, claimed_s, fps, max_s=limits.max_s)
        _check_duration(duration_s, limits)
        width_px, height_px = look.turn.size_px(look.width_px, look.height_px)
        info = VideoInfo(
            container=source.demuxer,
            codec=source.decoder.codec.canonical_name,
            width_px=width_px,
            height_px=height_px,
            rotation=look.turn.degrees,
            duration_s=duration_s,
            fps=fps,
            num_frames=stream.frames or None,
            pixel_format=frame.format.name,
            bit_depth=max(component.bits for component in frame.format.components),
            transfer=look.transfer,
            is_interlaced=frame.interlaced_frame or source.decoder.field_order in INTERLACED,
            size_bytes=path.stat().st_size,
        )
        return Described(info, look, first_pts, stream.time_base)


def _look_of(frame: Any, source: Source) -> Look:  # noqa: ANN401 - av.VideoFrame
    transfer = TRANSFERS.get(frame.color_trc) or TRANSFERS.get(source.decoder.color_trc, "sdr")
    return Look(*shown_size(frame.width, frame.height, source.stream.sample_aspect_ratio), turn_of(frame), transfer)


def _check_size(width_px: int, height_px: int, limits: VideoLimits) -> None:
    if width_px * height_px > limits.max_px:
        raise VideoError(
            "too_many_pixels",
            f"The video is {width_px}x{height_px} px; {limits.max_px:,} px are allowed, width times height.",
        )


def _check_duration(duration_s: float, limits: VideoLimits) -> None:
    if duration_s > limits.max_s:
        raise VideoError("too_long", f"The video is {duration_s:,.0f} s long; {limits.max_s:,.0f} s are allowed.")


def _claimed_s(source: Source) -> float:
    """The duration that the header names; zero where it names none."""
    stream = source.stream
    if stream.duration and stream.duration > 0 and stream.time_base:
        return float(stream.duration * stream.time_base)
    return max(0.0, float(source.container.duration or 0) / 1_000_000)  # AV_TIME_BASE


def _first_frame(source: Source) -> Any:  # noqa: ANN401 - av.VideoFrame
    """The first one that is shown whole."""
    source.decoder.thread_count = 1
    for frame in _peek(source):
        if not frame.is_corrupt:
            return frame
    raise VideoError("damaged", "The video is damaged: none of its first pictures can be decoded.")


def _peek(source: Source) -> Iterator[Any]:
    for packet in itertools.chain(itertools.islice(source.packets(), MAX_PEEKED), [None]):
        try:
            yield from source.decoder.decode(packet)
        except av.MemoryError:
            raise
        except av.FFmpegError:
            continue


def _fps(stream: Any) -> float:  # noqa: ANN401 - av.VideoStream
    """The average rate; zero where the header names none that can be true."""
    rates = (float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate)
    return next((rate for rate in rates if 0 < rate <= MAX_FPS), 0.0)


def _duration_s(source: Source, first_pts: int, claimed_s: float, fps: float, *, max_s: float) -> float:
    """From the first to the end of the last frame, whatever the header claims; stops looking when it is too long.

    Reads packets from shortly before the claimed end on, or all of them where nothing is claimed. Decodes nothing.
    """
    time_base = float(source.stream.time_base)
    frame_pts = round((1 / fps if fps else DEFAULT_FRAME_S) / time_base)
    # Where a file cannot be wound forward, reading goes on from where it is.
    with contextlib.suppress(av.FFmpegError):
        source.container.seek(first_pts + int(claimed_s / time_base), stream=source.stream)
    end_pts = first_pts
    for packet in source.packets():
        pts = packet.dts if packet.pts is None else packet.pts
        if pts is not None:
            end_pts = max(end_pts, pts + (packet.duration or frame_pts))
        if (end_pts - first_pts) * time_base > max_s:
            break
    return float(end_pts - first_pts) * time_base or claimed_s
