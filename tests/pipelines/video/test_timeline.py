"""What has to be decoded is known from packets alone: from a key frame up to what is wanted, and no more."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.video.container import open_container
from pipelines.video.timeline import Timeline, plan_for, read_timeline
from pipelines.video.wishes import AtTimes, EveryFew
from tests.clips import make_clip
from tests.pipelines.video.conftest import Odd


def timeline(pts: list[int], keys: list[int]) -> Timeline:
    is_key = np.zeros(len(pts), bool)
    is_key[keys] = True
    return Timeline(np.array(pts, np.int64), is_key, np.ones(len(pts), bool))


def needed(known: Timeline, wanted: list[int]) -> list[int]:
    return np.flatnonzero(plan_for(known, wanted).is_needed).tolist()


def test_from_the_key_frame_to_the_wanted_one_and_no_further() -> None:
    known = timeline(list(range(12)), keys=[0, 4, 8])
    assert needed(known, [5]) == [4, 5]
    assert needed(known, [1, 10]) == [0, 1, 8, 9, 10]
    assert needed(known, []) == []
    assert np.flatnonzero(plan_for(known, [1, 10]).is_start).tolist() == [0, 8]


def test_groups_that_follow_each_other_are_decoded_in_one_go() -> None:
    assert np.flatnonzero(plan_for(timeline(list(range(8)), keys=[0, 4]), [3, 5]).is_start).tolist() == [0]


def test_what_is_shown_before_its_key_frame_needs_the_group_before_it() -> None:
    known = timeline([0, 3, 1, 2, 6, 4, 5, 9, 7, 8], keys=[0, 4])  # open groups: 4 and 5 are shown before 6
    assert needed(known, [5]) == [0, 1, 2, 3, 4, 5]
    assert needed(known, [7]) == [4, 5, 6, 7]


def test_without_any_key_frame_everything_before_is_needed() -> None:
    assert needed(timeline([0, 1, 2], keys=[]), [1]) == [0, 1]


def test_b_frames_are_no_anchors(odd: Odd) -> None:
    with open_container(odd("b-frames").path) as source:
        known = read_timeline(source)
    assert known is not None
    assert 0.2 < known.is_anchor().mean() < 0.4
    assert known.pts[known.shown_order()].tolist() == sorted(known.pts.tolist())
    assert known.is_key[0] and 2 <= known.is_key.sum() <= 4


def test_times_that_are_missing_or_not_unique_make_no_timeline(odd: Odd, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_container(odd("plain").path) as source:
        packets = list(source.packets())
        monkeypatch.setattr(source, "packets", lambda: iter([*packets, packets[3]]))
        assert read_timeline(source) is None
        packets[5].pts = None
        monkeypatch.setattr(source, "packets", lambda: iter(packets))
        assert read_timeline(source) is None


def test_frames_cut_away_by_an_edit_list_are_not_shown(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", num_b_frames=2, times=[0.5 + index / 25 for index in range(20)])
    with open_container(clip.path) as source:
        known = read_timeline(source)
    assert known is not None and known.is_shown.all()


def test_each_stretch_prefers_a_frame_that_is_decoded_anyway() -> None:
    times_s = np.arange(12) / 12
    is_cheap = np.zeros(12, bool)
    is_cheap[[2, 3, 10]] = True
    assert EveryFew(4).pick(times_s, is_cheap).tolist() == [2, 3, 6, 10]


def test_wishes_that_were_granted_are_not_picked_again() -> None:
    times_s, none_cheap = np.arange(8) / 4, np.zeros(8, bool)
    few = EveryFew(2)
    assert [few.count(start_s, start_s + 0.25) for start_s in times_s[:4]] == [1, 0, 1, 0]
    assert few.pick(times_s, none_cheap).tolist() == [4, 6]
    some = AtTimes([0.1, 0.3, 0.3, 1.6])
    assert some.count(0.0, 0.25) == 1
    assert some.pick(times_s, none_cheap).tolist() == [1, 6]
    assert [some.count(0.25, 0.5), some.count(0.5, 1.5), some.count(1.5, 9.0)] == [2, 0, 1]
