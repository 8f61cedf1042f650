"""Surveys as data: what is written is read again, nonsense is refused; faults of exposure; coverage by faces."""

from dataclasses import replace
from typing import Any

import pytest

from pipelines.frames.candidates import BadData, Candidate, Choice, Rejected, Survey, coverage
from pipelines.request import Face
from tests.pipelines.frames.made import FACE, candidate, survey_of


def test_a_survey_is_read_as_it_was_written():
    survey = survey_of(candidate(0, faces=(FACE,)), candidate(1, faces=None, descriptor=()), candidate(2))
    assert Survey.from_dict(survey.to_dict()) == survey


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("thumbnail", "../../etc/passwd"),
        ("thumbnail", "/etc/passwd.jpg"),
        ("thumbnail", "thumbnail-000000.jpg\n"),
        ("hash", "no hex at all.."),
        ("time_s", float("nan")),
        ("sharpness", float("inf")),
        ("sharpness", -1.0),
        ("brightness", 256.0),
        ("time_s", "0.5"),
        ("scene", -1),
        ("moment", 1.5),
        ("faces", [{"x": 0}]),
        ("descriptor", [0.1] * 513),
        ("is_transition", "no"),
    ],
)
def test_a_survey_with_an_impossible_value_is_refused(field: str, value: Any):
    data = survey_of(candidate(0)).to_dict()
    data["candidates"][0][field] = value
    with pytest.raises(BadData):
        Survey.from_dict(data)


@pytest.mark.parametrize(
    "candidates",
    [
        (candidate(1),),
        (candidate(0), candidate(1, time_s=0.0)),
        (candidate(0, scene=1), candidate(1, scene=0)),
        (candidate(0, moment=1), candidate(1, moment=0)),
        (candidate(0, moment=0), candidate(1, moment=0)),
        (candidate(0), candidate(1, descriptor=(1.0,))),
    ],
    ids=["numbers", "times", "scenes", "moments", "two best ones", "descriptors"],
)
def test_a_survey_out_of_order_is_refused(candidates: tuple[Candidate, ...]):
    data = survey_of(candidate(0)).to_dict()
    data["candidates"] = [{**data["candidates"][0], **_plain(one)} for one in candidates]
    with pytest.raises(BadData):
        Survey.from_dict(data)


def _plain(one: Candidate) -> dict[str, Any]:
    names = ("index", "time_s", "scene", "moment", "descriptor")
    return {name: list(value) if isinstance(value := getattr(one, name), tuple) else value for name in names}


@pytest.mark.parametrize("data", [{}, {"candidates": []}, {"candidates": None, "info": 3}])
def test_what_is_no_survey_is_refused(data: dict[str, Any]):
    with pytest.raises(BadData):
        Survey.from_dict(data)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"highlights": 40.0, "brightness": 20.0}, "too_dark"),
        ({"brightness": 3.0}, "too_dark"),
        ({"dark_share": 0.97}, "too_dark"),
        ({"brightness": 12.0, "highlights": 120.0, "dark_share": 0.7}, None),  # somebody in a spotlight
        ({"brightness": 240.0}, "too_bright"),
        ({"bright_share": 0.6}, "too_bright"),
        ({"contrast": 3.0}, "flat"),
    ],
)
def test_exposure_is_at_fault_where_nothing_can_be_seen(changes: dict[str, float], fault: str | None):
    assert candidate(0, **changes).fault == fault


def test_counts_add_up_to_all_candidates():
    one = candidate(0)
    choice = Choice((one,), (Rejected(candidate(1), "duplicate"), Rejected(candidate(2), "duplicate")), ())
    assert choice.counts == {"kept": 1, "duplicate": 2}


@pytest.mark.parametrize(
    ("height_px", "word"), [(180, "close"), (97, "close"), (60, "medium"), (49, "medium"), (40, "full")]
)
def test_coverage_goes_by_the_height_of_the_largest_face(height_px: int, word: str):
    small = Face(0, 0, 30, 30, 0.9)
    assert coverage((small, replace(small, height=height_px)), 360) == word


def test_a_still_without_a_face_covers_nobody():
    assert coverage((), 360) is None
