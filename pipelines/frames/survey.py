"""survey(): one pass over a video, small stills scored as they come. Work for a process of its own; keeps no pictures.

Knows nothing of what is wanted: it only says what there is.
"""

from collections import deque
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2

from pipelines.frames.candidates import Candidate, Survey
from pipelines.frames.faces import FaceFinder, open_face_finder
from pipelines.frames.orders import SurveyOrder
from pipelines.frames.scenes import SceneFinder, Verdict
from pipelines.frames.scores import Picture, describe, luma, perceptual_hash, score, shrink
from pipelines.video.bars import find_bars
from pipelines.video.decoding import Video, open_video
from pipelines.video.info import VideoError
from pipelines.video.still import Still
from pipelines.work import Tell, WorkRefused

BAR_LOOKS = 12  # stills, all over the video, that are looked at for black bars
THUMBNAIL_SIDE_PX, THUMBNAIL_QUALITY = 320, 85
NUM_NEWS = 100  # of the progress of one survey
DESCRIPTOR_DIGITS = 4


def survey(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """For the arguments of a SurveyOrder, a Survey; tells {"done_s", "of_s"} on the way."""
    order = SurveyOrder(**arguments)
    finder = open_face_finder(Path(order.yunet_path) if order.yunet_path else None)
    try:
        with open_video(Path(order.path), num_threads=order.num_threads, hardware=order.hardware) as video:
            video.crop = find_bars(video.survey(BAR_LOOKS / max(video.info.duration_s, 1.0), order.side_px))
            return _survey(video, order, finder, tell).to_dict()
    except VideoError as error:
        raise WorkRefused(error.code, str(error)) from error


def _survey(video: Video, order: SurveyOrder, finder: FaceFinder | None, tell: Tell) -> Survey:
    of_s = video.info.duration_s
    hz = min(order.hz, order.max_surveyed / max(of_s, 1 / order.hz))
    scorer = _Scorer(Path(order.folder), SceneFinder(hz), finder, moment_s=order.moment_s)
    told_s = 0.0
    for still in islice(video.survey(hz, order.side_px), order.max_surveyed):
        scorer.look(still)
        if still.time_s >= told_s:
            tell({"done_s": still.time_s, "of_s": of_s})
            told_s = still.time_s + of_s / NUM_NEWS
    candidates = scorer.finish()
    if not candidates:
        raise VideoError("damaged", "Not one picture of the video can be read.")
    width_px, height_px = scorer.size_px
    return Survey(
        info=video.info,
        crop=video.crop,
        still_width_px=width_px,
        still_height_px=height_px,
        candidates=tuple(candidates),
        num_damaged=video.num_damaged,
        has_face_detector=finder is not None,
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """A still that waits for the verdict on its scene; `candidate` does not know its scene, moment and faces yet."""

    candidate: Candidate
    rgb: Picture


class _Scorer:
    """Scores stills one after the other. Holds a few of them at any time: those that wait for their verdict, and the
    best of the moment that is not over."""

    def __init__(self, folder: Path, scenes: SceneFinder, finder: FaceFinder | None, *, moment_s: float) -> None:
        self._folder = folder
        self._moment_s = moment_s
        self._scenes = scenes
        self._finder = finder
        self._waiting: deque[_Seen] = deque()
        self._candidates: list[Candidate] = []
        self._num_seen = 0
        self._moment = -1
        self._moment_key = (-1, -1)
        self._scene_from_s = 0.0
        self._best: _Seen | None = None
        self.size_px = (0, 0)

    def look(self, still: Still) -> None:
        """Takes the next one."""
        self._waiting.append(_Seen(self._scored(still), still.rgb))
        self._num_seen += 1
        self.size_px = (still.rgb.shape[1], still.rgb.shape[0])
        for verdict in self._scenes.look(still.time_s, still.rgb):
            self._settle(verdict)

    def finish(self) -> list[Candidate]:
        """All that were seen."""
        for verdict in self._scenes.finish():
            self._settle(verdict)
        self._end_moment()
        return self._candidates

    def _scored(self, still: Still) -> Candidate:
        name = f"thumbnail-{self._num_seen:06d}.jpg"
        small = cv2.cvtColor(shrink(still.rgb, THUMBNAIL_SIDE_PX), cv2.COLOR_RGB2BGR)
        if not cv2.imwrite(str(self._folder / name), small, [cv2.IMWRITE_JPEG_QUALITY, THUMBNAIL_QUALITY]):
            raise OSError(f"{name} could not be written")
        grey = luma(still.rgb)
        scores = score(grey)
        return Candidate(
            sharpness=scores.sharpness,
            brightness=scores.brightness,
            highlights=scores.highlights,
            contrast=scores.contrast,
            dark_share=scores.dark_share,
            bright_share=scores.bright_share,
            index=self._num_seen,
            time_s=still.time_s,
            scene=0,
            moment=0,
            is_transition=False,
            hash=perceptual_hash(grey),
            descriptor=(),
            faces=None,
            thumbnail=name,
        )

    def _settle(self, verdict: Verdict) -> None:
        seen = self._waiting.popleft()
        scene, time_s = verdict.scene, seen.candidate.time_s
        if scene != self._moment_key[0]:
            self._scene_from_s = time_s
        key = (scene, int((time_s - self._scene_from_s) / self._moment_s))
        if key != self._moment_key:
            self._end_moment()
            self._moment_key = key
            self._moment += 1
        settled = replace(seen.candidate, scene=scene, moment=self._moment, is_transition=verdict.is_transition)
        self._candidates.append(settled)
        is_usable = not settled.is_transition and settled.fault is None
        if is_usable and (self._best is None or settled.sharpness > self._best.candidate.sharpness):
            self._best = _Seen(settled, seen.rgb)

    def _end_moment(self) -> None:
        if self._best is None:
            return
        best, rgb = self._best.candidate, self._best.rgb
        self._best = None
        self._candidates[best.index] = replace(
            best,
            descriptor=tuple(round(float(number), DESCRIPTOR_DIGITS) for number in describe(rgb)),
            faces=self._finder.find(rgb) if self._finder else (),
        )
