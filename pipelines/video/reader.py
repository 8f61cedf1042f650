"""Packets of one video stream → frames, all of them or those of a plan. What is damaged is counted and left out."""

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
from av.codec.hwaccel import HWAccel

from pipelines.video.container import Source, open_container
from pipelines.video.info import VideoError
from pipelines.video.timeline import Plan, Timeline

logger = logging.getLogger(__name__)

Frame = Any  # av.VideoFrame
# With one frame for each thread, FFmpeg 8.1 may wait for ever on damaged HEVC and write to nowhere on damaged VP9.
# Shared out within the frame, both are well, though HEVC without wavefronts then keeps only one core busy.
NOT_BY_FRAME = {"hevc", "vp9"}
MAX_THREADS = 16  # each holds frames of its own; more gain nothing


class PictureMissing(Exception):
    """A frame that the plan promised did not come out of the decoder."""


class FalseKey(PictureMissing):
    """A frame that the container calls a key frame is none for the decoder: it builds on what was left out."""

    def __init__(self, pts: int) -> None:
        super().__init__(f"the frame at {pts} is no key frame")
        self.pts = pts


class Reader:
    """Reads a file once, from its beginning."""

    def __init__(self, path: Path, *, num_threads: int, may_accelerate: bool = False) -> None:
        self.num_damaged = 0  # packets that no decoder could make sense of, and frames that it says are broken
        self._source = _accelerated(path) if may_accelerate else open_container(path)
        self._decoder = self._source.decoder
        self._decoder.thread_type = "SLICE" if self._decoder.codec.canonical_name in NOT_BY_FRAME else "AUTO"
        self._decoder.thread_count = num_threads or _num_threads()
        # dav1d looks at skip_frame once, when it is opened. What fails here fails again, and is counted, at a packet.
        with contextlib.suppress(av.FFmpegError):
            self._decoder.open(strict=False)
        self._key_pts: int | None = None  # of the key frame that is to come out of the decoder next

    def in_full(self) -> Iterator[Frame]:
        """Every frame that can be decoded, in the order they are shown."""
        for packet in self._source.packets():
            yield from self._decode(packet)
        yield from self._decode(None)

    def planned(self, timeline: Timeline, plan: Plan) -> Iterator[Frame]:
        """The wanted frames in the order they are shown, among others that happened to be decoded on the way."""
        num_left = int(plan.is_needed.sum())
        for index, packet in enumerate(self._source.packets()):
            if num_left == 0:
                break
            if not plan.is_needed[index]:
                continue
            num_left -= 1
            if plan.is_start[index] and index > 0:
                yield from self._checked(self._decode(None))
                self._decoder.flush_buffers()
                self._key_pts = int(timeline.pts[index])
            # What is not wanted itself is decoded only if other frames build on it.
            self._decoder.skip_frame = "DEFAULT" if plan.is_wanted[index] else "NONREF"
            yield from self._checked(self._decode(packet))
        yield from self._checked(self._decode(None))

    def _checked(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The frames, once the first of them has proved to be the key frame that the others build on."""
        for frame in frames:
            if self._key_pts is not None and frame.pts is not None and frame.pts >= self._key_pts:
                if frame.pts != self._key_pts or not frame.key_frame:
                    raise FalseKey(self._key_pts)
                self._key_pts = None
            yield frame

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _decode(self, packet: Any | None) -> list[Frame]:  # noqa: ANN401 - av.Packet; None: what is left inside
        try:
            frames = self._decoder.decode(packet)
        except av.EOFError:
            return []
        except av.MemoryError:
            raise
        except av.FFmpegError:
            self.num_damaged += 1
            return []
        whole = [frame for frame in frames if not frame.is_corrupt]
        self.num_damaged += len(frames) - len(whole)
        return whole


def _num_threads() -> int:
    """Twice the cores: of packets that are skipped, each keeps a thread waiting for its turn as if it were decoded."""
    return min(MAX_THREADS, 2 * len(os.sched_getaffinity(0)))


def _accelerated(path: Path) -> Source:
    """Decoded by the GPU where there is one that knows the codec."""
    try:
        return open_container(path, accelerator=HWAccel("cuda", allow_software_fallback=True))
    except (VideoError, av.FFmpegError, RuntimeError, ValueError) as error:
        logger.debug("no decoding on a GPU: %s", error)
        return open_container(path)
