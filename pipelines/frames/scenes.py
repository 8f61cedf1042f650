"""Where one scene ends and the next begins, and which stills are part of both: cuts, fades, dissolves.

Stills are handed in by time; the verdict on each comes a few stills later, since it takes what follows to judge.
"""

from collections import deque
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np
import numpy.typing as npt
from scenedetect import AdaptiveDetector, FrameTimecode
from scenedetect.common import Timecode

from pipelines.frames.scores import Picture, luma, shrink

# The values that did best over three public sets of videos (PySceneDetect's benchmark page, 2026).
ADAPTIVE_THRESHOLD = 3.5
LOOK_AHEAD = 3  # stills before and after one that it is compared with
MIN_SCENE_S = 0.6

LOOK_SIDE_PX = 320
MIX_SIDE_PX = 48
TICK = Fraction(1, 1_000_000)

# Of a fade: what lies between are two pictures laid over each other, so this still is a mean of what was and will be.
MIN_CHANGE_LUMA = 12.0  # between what was and will be
MAX_RESIDUE = 0.1  # of that change, not explained by mixing: 0.02 to 0.05 in dissolves, from 0.12 on where things move
MIN_MIX, MAX_MIX = 0.12, 0.88


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one still."""

    scene: int
    is_transition: bool


@dataclass(frozen=True, slots=True)
class _Waiting:
    time_s: float
    mix: npt.NDArray[np.float32]


class SceneFinder:
    """Feeds PySceneDetect's adaptive detector with true times, and finds the fades that it does not look for."""

    def __init__(self, hz: float) -> None:
        self._hz = float(hz)  # about how many stills there are to a second
        self._detector = AdaptiveDetector(
            adaptive_threshold=ADAPTIVE_THRESHOLD, min_scene_len=MIN_SCENE_S, window_width=LOOK_AHEAD
        )
        self._around: deque[_Waiting] = deque(maxlen=2 * LOOK_AHEAD + 1)
        self._cuts_s: set[float] = set()
        self._num_judged = 0
        self._num_seen = 0
        self._scene = 0
        self._scene_from_s = 0.0
        self._was_transition = False
        self._last: tuple[float, Picture] | None = None

    def look(self, time_s: float, rgb: Picture) -> list[Verdict]:
        """Takes the next still; returns the verdicts on earlier ones that can now be given, in order."""
        small = shrink(rgb, LOOK_SIDE_PX)
        # The detector judges a still by its neighbours; at either end the outermost one stands in for those missing.
        for _ in range(1 if self._last else 1 + LOOK_AHEAD):
            self._detect(time_s, small)
        self._last = time_s, small
        mix = np.asarray(cv2.resize(luma(small), (MIX_SIDE_PX, MIX_SIDE_PX), interpolation=cv2.INTER_AREA), np.float32)
        self._around.append(_Waiting(time_s, mix))
        self._num_seen += 1
        return [self._judge(-1 - LOOK_AHEAD)] if self._num_seen > LOOK_AHEAD else []

    def finish(self) -> list[Verdict]:
        """The verdicts on those that are left."""
        if self._last is None:
            return []
        for _ in range(LOOK_AHEAD):
            self._detect(*self._last)
        return [self._judge(place) for place in range(self._num_judged - self._num_seen, 0)]

    def _detect(self, time_s: float, small: Picture) -> None:
        timecode = FrameTimecode(Timecode(round(time_s / TICK), TICK), fps=self._hz)
        bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        self._cuts_s.update(cut.seconds for cut in self._detector.process_frame(timecode, bgr))

    def _judge(self, place: int) -> Verdict:
        """On the still at `place`, counted from the end."""
        still = self._around[place]
        is_transition = self._is_mixed(place)
        is_start = self._was_transition or any(abs(cut_s - still.time_s) <= TICK for cut_s in self._cuts_s)
        if is_start and not is_transition and still.time_s - self._scene_from_s >= MIN_SCENE_S:
            self._scene += 1
            self._scene_from_s = still.time_s
        self._was_transition = is_transition
        self._num_judged += 1
        return Verdict(self._scene, is_transition)

    def _is_mixed(self, place: int) -> bool:
        stills = list(self._around)
        middle = len(stills) + place
        reach = min(LOOK_AHEAD, middle, len(stills) - 1 - middle)
        return any(
            _is_mixture(stills[middle].mix, stills[middle - steps].mix, stills[middle + steps].mix)
            for steps in range(1, reach + 1)
        )


def _is_mixture(
    still: npt.NDArray[np.float32], before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]
) -> bool:
    """Whether it is a weighted mean of the two: what moves is not."""
    change = after - before
    size = float(np.linalg.norm(change))
    if size < MIN_CHANGE_LUMA * MIX_SIDE_PX:  # the norm is over that many pixels squared
        return False
    share = float(np.vdot(still - before, change)) / size**2
    residue = float(np.linalg.norm(still - before - share * change)) / size
    return MIN_MIX <= share <= MAX_MIX and residue <= MAX_RESIDUE
