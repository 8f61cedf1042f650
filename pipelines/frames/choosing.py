"""choose(): which stills of a survey are kept, and for each of the others the one reason why not.

Pure: the same survey, wish and scores give the same choice. Knows no video; a score that it misses it asks for.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush

import numpy as np

from pipelines.frames.candidates import Candidate, Choice, Reason, Rejected, Survey
from pipelines.request import FramesRequest

BLUR_SHARE = 0.25  # of what the sharp stills of the scene have; less content alone halves it, motion leaves a tenth
SHARP_PERCENTILE = 90
SAME_HASH_BITS = 4  # of 64, within one moment
SAME_COSINE = 1 - 0.12**2 / 2  # of descriptors, anywhere in the video; see scores.describe() for the distance

Fates = dict[int, Reason]  # by index


def choose(survey: Survey, wish: FramesRequest, nsfw: Mapping[int, float], *, nsfw_limit: float | None) -> Choice:
    """At most `wish.max_frames` stills, spread over the scenes; none from `nsfw_limit` on, None allows all.

    First all that is not good enough goes, then what shows the same as a sharper one; only then is room scarce. So
    asking for more stills never gives fewer, and what is kept are the sharpest of as many parts of each scene.
    """
    fates: Fates = {}
    for scene in _by_scene(survey.candidates).values():
        fates |= _light_faults(scene)
        fates |= _blurred([one for one in scene if one.index not in fates], wish.min_sharpness or 0.0)
    for one in survey.candidates:
        if one.is_best and one.index not in fates and (reason := _unwanted(one, wish, nsfw.get(one.index), nsfw_limit)):
            fates[one.index] = reason
    fates |= _of_their_moment(survey.candidates, fates, dedupe=wish.dedupe)
    left = [one for one in survey.candidates if one.index not in fates]
    if wish.dedupe:
        fates |= _duplicates(left, faces_first=wish.faces == "prefer")
        left = [one for one in left if one.index not in fates]
    fates |= _for_want_of_room(left, survey, wish)
    kept = tuple(one for one in left if one.index not in fates)
    return Choice(
        kept=kept,
        rejected=tuple(Rejected(one, fates[one.index]) for one in survey.candidates if one.index in fates),
        wants_nsfw=tuple(one.index for one in kept if one.index not in nsfw),
    )


def _light_faults(scene: Sequence[Candidate]) -> Fates:
    faults = {one.index: "transition" if one.is_transition else one.fault for one in scene}
    return {index: fault for index, fault in faults.items() if fault is not None}


def _blurred(scene: Sequence[Candidate], min_sharpness: float) -> Fates:
    if not scene:
        return {}
    sharp = float(np.percentile([one.sharpness for one in scene], SHARP_PERCENTILE))
    limit = max(min_sharpness, BLUR_SHARE * sharp)
    return {one.index: "blurry" for one in scene if one.sharpness < limit}


def _of_their_moment(candidates: Sequence[Candidate], fates: Fates, *, dedupe: bool) -> Fates:
    """Those that lose to the best of their moment: as duplicates where the hash says so. They were not looked at for
    faces themselves, nor by a moderator: what is wrong with the best counts for them."""
    best = {one.moment: one for one in candidates if one.is_best}
    lost: Fates = {}
    for one in candidates:
        if one.index in fates or one.is_best:
            continue
        winner = best.get(one.moment)
        shared = fates.get(winner.index) if winner else None
        is_same = winner is not None and _hash_distance(one, winner) <= SAME_HASH_BITS
        lost[one.index] = shared or ("duplicate" if dedupe and is_same else "not_best")
    return lost


def _hash_distance(left: Candidate, right: Candidate) -> int:
    return (int(left.hash, 16) ^ int(right.hash, 16)).bit_count()


def _unwanted(one: Candidate, wish: FramesRequest, score: float | None, limit: float | None) -> Reason | None:
    if wish.faces == "require" and not one.faces:
        return "no_face"
    return "nsfw" if limit is not None and score is not None and score >= limit else None


def _duplicates(stills: Sequence[Candidate], *, faces_first: bool) -> Fates:
    """Sharpest first, each takes away all that look the same."""
    order = sorted(stills, key=lambda one: (faces_first and not one.faces, -one.sharpness, one.index))
    descriptors = np.array([one.descriptor for one in order], dtype=np.float32)
    stays = np.ones(len(order), dtype=bool)
    for place in range(len(order)):
        if stays[place]:
            stays[place + 1 :] &= descriptors[place + 1 :] @ descriptors[place] < SAME_COSINE
    return {one.index: "duplicate" for one, is_kept in zip(order, stays, strict=True) if not is_kept}


def _for_want_of_room(stills: Sequence[Candidate], survey: Survey, wish: FramesRequest) -> Fates:
    """Where faces are preferred, those without one get what room the others leave."""
    lengths_s = {number: scene[-1].time_s - scene[0].time_s for number, scene in _by_scene(survey.candidates).items()}
    is_first = {one.index: wish.faces != "prefer" or bool(one.faces) for one in stills}
    first = [one for one in stills if is_first[one.index]]
    second = [one for one in stills if not is_first[one.index]]
    room = wish.max_frames
    return _spread(first, room, lengths_s) | _spread(second, max(0, room - len(first)), lengths_s)


def _spread(stills: Sequence[Candidate], room: int, lengths_s: Mapping[int, float]) -> Fates:
    scenes = _by_scene(stills)
    quotas = _quotas({number: len(scene) for number, scene in scenes.items()}, room, lengths_s)
    lost: Fates = {}
    for number, scene in scenes.items():
        best = {window[-1].index for window in _windows(scene, quotas[number])}
        reason: Reason = "not_best" if best else "over_quota"
        lost |= {one.index: reason for one in scene if one.index not in best}
    return lost


def _quotas(num_stills: Mapping[int, int], room: int, lengths_s: Mapping[int, float]) -> dict[int, int]:
    """Seats by length as D'Hondt gives them, one for each scene first; no scene gets more than it can fill."""
    quotas = dict.fromkeys(num_stills, 0)
    queue = [(False, -lengths_s[number], number) for number in quotas]
    heapify(queue)
    for _ in range(min(room, sum(num_stills.values()))):
        *_, number = heappop(queue)
        quotas[number] += 1
        if quotas[number] < num_stills[number]:
            heappush(queue, (True, -lengths_s[number] / (quotas[number] + 1), number))
    return quotas


def _windows(scene: Sequence[Candidate], num_windows: int) -> Iterator[list[Candidate]]:
    """As many parts as asked for, each with about as many stills, the sharpest last."""
    for number in range(num_windows):
        start, end = (len(scene) * edge // num_windows for edge in (number, number + 1))
        yield sorted(scene[start:end], key=lambda one: (one.sharpness, -one.index))


def _by_scene(candidates: Sequence[Candidate]) -> dict[int, list[Candidate]]:
    scenes: defaultdict[int, list[Candidate]] = defaultdict(list)
    for one in candidates:
        scenes[one.scene].append(one)
    return dict(scenes)
