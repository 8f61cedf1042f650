"""When every frame of a file is shown and which packets it takes to decode the wanted ones, learnt without decoding."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.video.container import Source

MAX_PACKETS = 20_000_000  # 46 hours at 120 a second; more is not remembered


@dataclass(frozen=True, slots=True)
class Timeline:
    """The packets of a stream in the order they are decoded in, which is not the order they are shown in."""

    pts: NDArray[np.int64]
    is_key: NDArray[np.bool_]
    is_shown: NDArray[np.bool_]

    def forget_key(self, pts: int) -> None:
        """The decoder does not take this frame for a key frame."""
        self.is_key[self.pts == pts] = False

    def shown_order(self) -> NDArray[np.int64]:
        """Indices of the shown frames, by the time they are shown at."""
        order = np.argsort(self.pts, kind="stable")
        return order[self.is_shown[order]]

    def is_anchor(self) -> NDArray[np.bool_]:
        """Frames with nothing later decoded before them: no B-frames, so needed by others whether wanted or not."""
        anchors: NDArray[np.bool_] = self.pts == np.maximum.accumulate(self.pts)
        return anchors


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with each packet of a timeline."""

    is_needed: NDArray[np.bool_]  # others are never decoded
    is_wanted: NDArray[np.bool_]
    is_start: NDArray[np.bool_]  # what was decoded before has nothing to do with this one


def read_timeline(source: Source) -> Timeline | None:
    """None where packets lack times of their own, so that nobody can say which of them is wanted."""
    pts: list[int] = []
    flags = bytearray()
    for packet in source.packets():
        if packet.pts is None or len(pts) == MAX_PACKETS:
            return None
        pts.append(packet.pts)
        flags.append(bool(packet.is_keyframe) | (not packet.is_discard) << 1)
    times = np.array(pts, np.int64)
    if not pts or len(np.unique(times)) < len(times):
        return None
    bits = np.frombuffer(bytes(flags), np.uint8)
    is_key = _keys_of_index(source) if source.demuxer == "mov" else None
    if is_key is None or len(is_key) != len(times):
        is_key = (bits & 1).astype(bool)
    return Timeline(times, is_key, (bits & 2).astype(bool))


def _keys_of_index(source: Source) -> NDArray[np.bool_]:
    """What MP4's own index calls key frames: packets are called so for as little as having no predicted parts."""
    return np.fromiter((entry.is_keyframe for entry in source.stream.index_entries), bool)


def plan_for(timeline: Timeline, wanted: Sequence[int] | NDArray[np.int64]) -> Plan:
    """From the key frame before each wanted one up to it, and not what comes after the last one before a key frame."""
    size = len(timeline.pts)
    is_wanted = np.zeros(size, bool)
    is_wanted[wanted] = True
    keys = np.flatnonzero(timeline.is_key)
    is_needed = np.zeros(size, bool)
    for index in np.flatnonzero(is_wanted):
        at = int(np.searchsorted(keys, index, side="right")) - 1
        # Shown before its own key frame, it builds on what came before that too.
        if at > 0 and timeline.pts[index] < timeline.pts[keys[at]]:
            at -= 1
        start = keys[at] if at >= 0 else 0
        is_needed[start : index + 1] = True
    is_start = is_needed & ~np.concatenate([[False], is_needed[:-1]])
    return Plan(is_needed, is_wanted, is_start)
