"""Single pictures out of a video: a quick survey of small ones, or those shown at given times in full size.

The file is read from its beginning to its end, twice: once for the packets' times, and again to decode those packets
that it takes to make the wanted pictures. Reading without decoding is a hundred times faster than decoding, and unlike
seeking it cannot land beside its aim. Where this fails to give a picture that it should, everything is decoded instead.
"""

import logging
import math
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from pipelines.video.container import open_container
from pipelines.video.deinterlacing import deinterlaced, with_neighbours
from pipelines.video.info import VideoError
from pipelines.video.painting import Painter
from pipelines.video.probing import DEFAULT_FRAME_S, Described, describe
from pipelines.video.reader import FalseKey, PictureMissing, Reader
from pipelines.video.still import Crop, Still
from pipelines.video.timeline import Timeline, plan_for, read_timeline
from pipelines.video.wishes import TOLERANCE_S, AtTimes, EveryFew, Wish

__all__ = ["Crop", "Still", "Video", "open_video"]

logger = logging.getLogger(__name__)

MAX_FALSE_KEYS = 20  # each costs another start from the beginning; with more of them, decoding everything is cheaper
MIN_HARDWARE_PX = 1_920 * 1_080  # below it the way to the GPU and back takes longer than decoding

Frame = Any  # av.VideoFrame
Shown = tuple[Frame, float, int]  # the frame, when it is shown, how often it is wanted
Hardware = Literal["auto", "off"]


def open_video(path: Path, *, num_threads: int = 0, hardware: Hardware = "off") -> "Video":
    """Raises VideoError where the file is no video; the end of it may be missing. 0 threads: all cores."""
    return Video(path, describe(path), num_threads=num_threads, hardware=hardware)


class Video:
    """One video stream. Pictures are upright, with square pixels, in sRGB, and without bars once `crop` is set."""

    def __init__(self, path: Path, described: Described, *, num_threads: int, hardware: Hardware) -> None:
        self.info = described.info
        self.crop = Crop()
        self.num_damaged = 0  # packets and frames that the latest survey or take could not use
        self._path, self._described, self._num_threads = path, described, num_threads
        self._may_accelerate = hardware == "auto" and self.info.width_px * self.info.height_px >= MIN_HARDWARE_PX
        self._timeline: Timeline | None = None
        self._has_timeline = False
        self._reader: Reader | None = None

    def survey(self, hz: float, side_px: int) -> Iterator[Still]:
        """Small pictures in the order they are shown, one at most out of each stretch of 1/hz seconds."""
        return self._stills(EveryFew(hz), side_px)

    def take(self, times_s: Sequence[float]) -> Iterator[Still]:
        """For each time, earliest first, what is on the screen then; what is damaged gives the picture before it."""
        return self._stills(AtTimes(times_s), None)

    def close(self) -> None:
        """Ends a survey or take that is under way."""
        if self._reader is not None:
            self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _stills(self, wish: Wish, side_px: int | None) -> Iterator[Still]:
        painter = Painter(self._described.look, self.crop, side_px=side_px)
        for frame, time_s, count in self._shown(wish):
            still = Still(time_s, painter.paint(frame))
            for _ in range(count):
                yield still

    def _shown(self, wish: Wish) -> Iterator[Shown]:
        # A frame of two fields is put together with its neighbours, so all of them have to be decoded.
        timeline = None if self.info.is_interlaced else self._read_timeline()
        if timeline is not None:
            for _ in range(MAX_FALSE_KEYS):
                try:
                    yield from self._planned(timeline, wish)
                    return
                except FalseKey as error:
                    timeline.forget_key(error.pts)
                except PictureMissing as error:
                    logger.info("decoding all of the video: %s", error)
                    break
        yield from self._in_full(wish)

    def _read_timeline(self) -> Timeline | None:
        if not self._has_timeline:
            with open_container(self._path) as source:
                self._timeline = read_timeline(source)
            self._has_timeline = True
        return self._timeline

    def _planned(self, timeline: Timeline, wish: Wish) -> Iterator[Shown]:
        """The quick way: decodes what the wanted frames need. Raises PictureMissing where that was not enough."""
        order = timeline.shown_order()
        times_s = self._seconds(timeline.pts[order])
        order, times_s = order[times_s > -TOLERANCE_S], times_s[times_s > -TOLERANCE_S]
        ends_s = np.append(times_s[1:], math.inf)
        picked = wish.pick(times_s, timeline.is_anchor()[order])
        waiting = deque(zip(timeline.pts[order[picked]], times_s[picked], ends_s[picked], strict=True))
        with self._reading(may_accelerate=self._may_accelerate) as reader:
            for frame in reader.planned(timeline, plan_for(timeline, order[picked])):
                self.num_damaged = reader.num_damaged
                if not waiting or frame.pts is None or frame.pts < waiting[0][0]:
                    continue
                pts, start_s, end_s = waiting.popleft()
                if frame.pts != pts:
                    raise PictureMissing(f"none at {start_s:.3f} s")
                yield frame, float(start_s), wish.count(float(start_s), float(end_s))
            self.num_damaged = reader.num_damaged
        if waiting:
            raise PictureMissing(f"none at {waiting[0][1]:.3f} s")

    def _in_full(self, wish: Wish) -> Iterator[Shown]:
        """The way that needs no promises: decodes everything and looks at what comes."""
        is_empty = True
        with self._reading(may_accelerate=False) as reader:
            timed = self._timed(reader.in_full())
            for (before, _), (frame, start_s), (after, end_s) in with_neighbours(timed):
                is_empty = False
                self.num_damaged = reader.num_damaged
                count = wish.count(start_s, end_s if end_s > start_s else math.inf)
                if count and self.info.is_interlaced:
                    yield deinterlaced(before, frame, after), start_s, count
                elif count:
                    yield frame, start_s, count
            self.num_damaged = reader.num_damaged
        if is_empty:
            raise VideoError("damaged", "The video is damaged: none of its pictures can be decoded.")

    def _timed(self, frames: Iterator[Frame]) -> Iterator[tuple[Frame, float]]:
        """Frames with the times they are shown at, without those that would have to be shown before an earlier one."""
        latest_s, frame_s = -math.inf, 1 / self.info.fps if self.info.fps else DEFAULT_FRAME_S
        for frame in frames:
            if frame.pts is None:
                time_s = max(latest_s, -frame_s) + frame_s
            else:
                time_s = float(self._seconds(np.array(frame.pts)))
            if time_s > max(latest_s, -TOLERANCE_S):
                latest_s = time_s
                yield frame, time_s

    def _seconds(self, pts: NDArray[np.int64]) -> NDArray[np.float64]:
        seconds: NDArray[np.float64] = (pts - self._described.first_pts) * np.float64(self._described.time_base)
        return seconds

    def _reading(self, *, may_accelerate: bool) -> Reader:
        self._reader = Reader(self._path, num_threads=self._num_threads, may_accelerate=may_accelerate)
        return self._reader
