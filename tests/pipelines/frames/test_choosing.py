"""choose(): what is kept, and why the others are not. Examples first, then what holds for any survey."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from pipelines.frames.candidates import REASONS, Candidate, Choice, Survey
from pipelines.frames.choosing import SAME_COSINE, choose
from tests.pipelines.frames.made import FACE, candidate, looks_like, survey_of, wish


def fates(choice: Choice) -> dict[int, str]:
    kept = {one.index: "kept" for one in choice.kept}
    return dict(sorted((kept | {one.candidate.index: one.reason for one in choice.rejected}).items()))


def chosen(*candidates: Candidate, nsfw: dict[int, float] | None = None, **changes: Any) -> dict[int, str]:
    return fates(choose(survey_of(*candidates), wish(**changes), nsfw or {}, nsfw_limit=0.8))


def test_a_still_for_a_minute_gives_its_sharpest_one():
    stills = [candidate(index, looks=0, sharpness=100.0 + (index == 70)) for index in range(120)]
    assert chosen(*stills) == {index: "kept" if index == 70 else "duplicate" for index in range(120)}


def test_without_dedupe_a_still_gives_as_many_as_asked_for():
    stills = [candidate(index, looks=0) for index in range(120)]
    choice = choose(survey_of(*stills), wish(dedupe=False), {}, nsfw_limit=None)
    assert choice.counts == {"kept": 12, "not_best": 108}


def test_a_picture_that_comes_back_later_is_a_duplicate():
    assert chosen(candidate(0, looks=1), candidate(1, scene=1), candidate(2, looks=1, scene=2))[2] == "duplicate"


def test_the_sharpest_of_each_part_of_a_scene_is_kept():
    sharp = {2: 140.0, 4: 130.0, 8: 150.0}
    stills = [candidate(index, sharpness=sharp.get(index, 100.0)) for index in range(9)]
    kept = [index for index, fate in chosen(*stills, max_frames=3).items() if fate == "kept"]
    assert kept == [2, 4, 8]


def test_every_scene_gets_one_before_a_long_one_gets_more():
    long = [candidate(index) for index in range(40)]
    short = [candidate(40 + number, scene=1 + number) for number in range(3)]
    choice = choose(survey_of(*long, *short), wish(max_frames=6), {}, nsfw_limit=None)
    assert [one.scene for one in choice.kept] == [0, 0, 0, 1, 2, 3]


def test_with_more_scenes_than_room_the_shortest_go_without():
    scenes = [candidate(0), candidate(1), candidate(2, scene=1), candidate(3, scene=1), candidate(4, scene=2)]
    assert chosen(*scenes, max_frames=2)[4] == "over_quota"


def test_a_long_scene_does_not_take_what_it_cannot_fill():
    long = [candidate(index, looks=0) for index in range(100)]
    short = [candidate(100 + number, scene=1) for number in range(5)]
    choice = choose(survey_of(*long, *short), wish(max_frames=6), {}, nsfw_limit=None)
    assert [one.scene for one in choice.kept] == [0, 1, 1, 1, 1, 1]


def test_the_blurred_part_of_a_scene_goes():
    assert chosen(candidate(0), candidate(1, sharpness=12.0)) == {0: "kept", 1: "blurry"}


def test_a_scene_that_is_soft_as_a_whole_stays():
    assert chosen(candidate(0), candidate(1, scene=1, sharpness=12.0)) == {0: "kept", 1: "kept"}


def test_what_is_less_sharp_than_asked_for_goes():
    assert chosen(candidate(0), candidate(1, sharpness=80.0), min_sharpness=90.0) == {0: "kept", 1: "blurry"}


def test_faults_have_names_of_their_own():
    stills = [
        candidate(0, is_transition=True),
        candidate(1, highlights=30.0, brightness=10.0),
        candidate(2, brightness=250.0),
        candidate(3, contrast=1.0),
        candidate(4),
    ]
    assert list(chosen(*stills).values()) == ["transition", "too_dark", "too_bright", "flat", "kept"]


def test_of_one_moment_only_the_best_is_kept():
    best = candidate(0, hash="0" * 16)
    same = candidate(1, moment=0, faces=None, descriptor=(), sharpness=90.0, hash="0" * 15 + "f")
    other = candidate(2, moment=0, faces=None, descriptor=(), sharpness=90.0, hash="f" * 16)
    assert chosen(best, same, other) == {0: "kept", 1: "duplicate", 2: "not_best"}
    assert chosen(best, same, other, dedupe=False) == {0: "kept", 1: "not_best", 2: "not_best"}


def test_what_is_wrong_with_the_best_of_a_moment_is_wrong_with_all_of_it():
    best, other = candidate(0), candidate(1, moment=0, faces=None, descriptor=())
    assert chosen(best, other, faces="require") == {0: "no_face", 1: "no_face"}
    assert chosen(best, other, nsfw={0: 0.9}) == {0: "nsfw", 1: "nsfw"}


def test_faces_may_be_required():
    assert chosen(candidate(0), candidate(1, faces=(FACE,)), faces="require") == {0: "no_face", 1: "kept"}


def test_where_faces_are_preferred_others_get_what_room_is_left():
    stills = [candidate(0, sharpness=200.0), candidate(1, faces=(FACE,)), candidate(2, sharpness=150.0)]
    assert chosen(*stills, faces="prefer", max_frames=2) == {0: "kept", 1: "kept", 2: "not_best"}
    assert chosen(*stills, faces="prefer", max_frames=1) == {0: "over_quota", 1: "kept", 2: "over_quota"}


def test_where_faces_are_preferred_a_face_takes_away_its_sharper_duplicate():
    stills = [candidate(0, looks=0, sharpness=200.0), candidate(1, looks=0, faces=(FACE,))]
    assert chosen(*stills, faces="prefer") == {0: "duplicate", 1: "kept"}
    assert chosen(*stills) == {0: "kept", 1: "duplicate"}


def test_an_unsafe_still_makes_way_for_the_next_best():
    stills = [candidate(0, looks=0, sharpness=200.0), candidate(1, looks=0)]
    assert chosen(*stills, nsfw={0: 0.8}) == {0: "nsfw", 1: "kept"}


def test_scores_are_asked_for_until_all_that_is_kept_has_one():
    survey, scores = survey_of(*(candidate(index) for index in range(6))), {0: 0.1, 1: 0.95}
    first = choose(survey, wish(max_frames=2), scores, nsfw_limit=0.8)
    assert set(first.wants_nsfw) == {one.index for one in first.kept} - {0}
    scores |= dict.fromkeys(first.wants_nsfw, 0.2)
    assert choose(survey, wish(max_frames=2), scores, nsfw_limit=0.8).wants_nsfw == ()


def test_without_a_limit_scores_reject_nothing_and_are_asked_for_all_the_same():
    choice = choose(survey_of(candidate(0), candidate(1)), wish(), {0: 0.99}, nsfw_limit=None)
    assert (choice.counts, choice.wants_nsfw) == ({"kept": 2}, (1,))


def test_when_nothing_is_good_enough_the_choice_is_empty():
    stills = [candidate(index, highlights=10.0, brightness=4.0) for index in range(4)]
    assert choose(survey_of(*stills), wish(), {}, nsfw_limit=0.8).counts == {"kept": 0, "too_dark": 4}


@st.composite
def surveys(draw: st.DrawFn) -> Survey:
    """Any: a few scenes and moments, stills good and bad, some alike, some with faces."""
    candidates: list[Candidate] = []
    for scene, num_stills in enumerate(draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))):
        for _ in range(num_stills):
            candidates.append(draw(stills(candidates, scene)))
    return survey_of(*candidates)


@st.composite
def stills(draw: st.DrawFn, before: Sequence[Candidate], scene: int) -> Candidate:
    index, last = len(before), before[-1] if before else None
    shares_moment = last is not None and last.scene == scene and draw(st.booleans())
    moment = last.moment + (0 if shares_moment else 1) if last else 0
    has_best = any(one.is_best for one in before if one.moment == moment)
    is_best = not has_best and draw(st.booleans())
    return candidate(
        index,
        time_s=(last.time_s if last else 0.0) + draw(st.floats(0.05, 3.0)),
        scene=scene,
        moment=moment,
        sharpness=draw(st.sampled_from([0.0, 5.0, 60.0, 100.0, 300.0])),
        brightness=draw(st.sampled_from([2.0, 120.0, 120.0, 250.0])),
        contrast=draw(st.sampled_from([1.0, 50.0, 50.0])),
        is_transition=draw(st.sampled_from([False, False, True])),
        hash=draw(st.sampled_from(["0" * 16, "0" * 15 + "7", "f" * 16])),
        descriptor=looks_like(draw(st.integers(0, 8))) if is_best else (),
        faces=draw(st.sampled_from([(), (FACE,)])) if is_best else None,
    )


wishes = st.builds(
    wish,
    max_frames=st.integers(1, 10),
    min_sharpness=st.sampled_from([None, 80.0]),
    faces=st.sampled_from(["any", "prefer", "require"]),
    dedupe=st.booleans(),
)
scores = st.dictionaries(st.integers(0, 60), st.floats(0, 1))


@given(survey=surveys(), asked=wishes, nsfw=scores)
def test_every_still_has_exactly_one_fate(survey, asked, nsfw):
    choice = choose(survey, asked, nsfw, nsfw_limit=0.8)
    assert sum(choice.counts.values()) == len(survey.candidates)
    assert list(fates(choice)) == list(range(len(survey.candidates)))
    assert set(choice.counts) <= {"kept", *REASONS}


def looks_same(left: Candidate, right: Candidate) -> bool:
    """Whether the two would be duplicates, wherever in the video they are."""
    return float(np.dot(left.descriptor, right.descriptor)) >= SAME_COSINE


@given(survey=surveys(), asked=wishes, nsfw=scores)
def test_what_is_kept_is_what_was_asked_for(survey, asked, nsfw):
    choice = choose(survey, asked, nsfw, nsfw_limit=0.8)
    assert len(choice.kept) <= asked.max_frames
    for one in choice.kept:
        assert one.is_best and one.fault is None and not one.is_transition
        assert one.sharpness >= (asked.min_sharpness or 0.0)
        assert one.faces or asked.faces != "require"
        assert nsfw.get(one.index, 0.0) < 0.8
    if asked.dedupe:
        assert not any(looks_same(*pair) for pair in combinations(choice.kept, 2))


@given(survey=surveys(), asked=wishes, nsfw=scores)
def test_both_lists_go_by_time(survey, asked, nsfw):
    choice = choose(survey, asked, nsfw, nsfw_limit=0.8)
    for times in ([one.time_s for one in choice.kept], [one.candidate.time_s for one in choice.rejected]):
        assert times == sorted(times)


@given(survey=surveys(), asked=wishes, nsfw=scores)
def test_the_same_question_has_the_same_answer(survey, asked, nsfw):
    answers = [choose(survey, asked, nsfw, nsfw_limit=0.8) for _ in range(2)]
    assert answers[0] == answers[1]


@given(survey=surveys(), asked=wishes, nsfw=scores)
def test_asking_for_more_never_gives_fewer(survey, asked, nsfw):
    more = choose(survey, replace(asked, max_frames=asked.max_frames + 1), nsfw, nsfw_limit=0.8)
    assert len(more.kept) >= len(choose(survey, asked, nsfw, nsfw_limit=0.8).kept)


@given(survey=surveys(), asked=wishes)
def test_asking_for_scores_comes_to_an_end_with_all_of_them_known(survey, asked):
    nsfw: dict[int, float] = {}
    for _ in range(len(survey.candidates) + 1):
        choice = choose(survey, asked, nsfw, nsfw_limit=0.8)
        nsfw |= {index: 0.9 if index % 3 == 0 else 0.1 for index in choice.wants_nsfw}
    assert choice.wants_nsfw == ()
    assert all(one.index % 3 for one in choice.kept)
