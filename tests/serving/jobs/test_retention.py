"""When what of an ended job is cleared away, and which of its objects are leftovers."""

from dataclasses import replace
from typing import Any

import pytest

from pipelines.request import StoredFile
from serving.jobs.job import Job, JobResult, StoredImage
from serving.jobs.retention import LOOK_EVERY_S, Clearing, clearing_due, leftovers, outputs_of, stored_by
from tests.serving.house import a_job

ENDED_AT = 1_000_000.0
TEMP_S, KEEP_S = 100.0, 1_000.0
PICTURE = StoredFile("temp/job/image.png", "0" * 64)


def ended(**changes: Any) -> Job:
    image = changes.pop("image", None)
    job = replace(a_job(image=image), status="succeeded", finished_at=ENDED_AT, attempts=1, fence=4)
    return replace(job, **changes)


def due(job: Job, after_s: float, **changes: float) -> Clearing:
    return clearing_due(job, ENDED_AT + after_s, **({"keep_s": KEEP_S, "temp_keep_s": TEMP_S} | changes))


def stored(*keys: str) -> JobResult:
    return JobResult(tuple(StoredImage(key, "image/png", 1, "0" * 64, 8, 8, 1) for key in keys), 1.0, 0.0)


@pytest.mark.parametrize(
    ("changes", "may_have"),
    [
        ({}, False),
        ({"attempts": 2}, True),
        ({"status": "failed"}, True),
        ({"status": "cancelled"}, True),
    ],
)
def test_only_what_went_straight_to_success_has_no_leftovers(changes: dict[str, Any], may_have: bool) -> None:
    assert due(ended(**changes), 1.0).leftovers is may_have


def test_inputs_stay_for_a_retry_by_hand_and_then_go() -> None:
    job = ended(image=PICTURE)
    early, late = due(job, TEMP_S - 1), due(job, TEMP_S)
    assert (early.inputs, early.next_at) == (False, ENDED_AT + TEMP_S)
    assert (late.inputs, late.next_at) == (True, ENDED_AT + KEEP_S)
    assert not due(ended(), TEMP_S).inputs, "it has none"


def test_a_job_goes_with_everything_when_its_time_is_over() -> None:
    job = ended(image=PICTURE)
    assert not due(job, KEEP_S - 1).everything
    assert due(job, KEEP_S).everything
    kept_briefly = due(job, 20.0, keep_s=20.0)
    assert (kept_briefly.everything, kept_briefly.inputs) == (True, True), "inputs do not outlive their job"


def test_a_job_of_whose_end_nobody_was_told_yet_stays() -> None:
    look = due(ended(owed_at=ENDED_AT), KEEP_S)
    assert not look.everything
    assert look.next_at > ENDED_AT + KEEP_S


def test_a_job_is_looked_at_daily_for_its_tenant_may_change_how_long_it_keeps_jobs() -> None:
    assert due(ended(), 1.0, keep_s=10 * LOOK_EVERY_S).next_at == ENDED_AT + 1.0 + LOOK_EVERY_S


def test_what_the_result_does_not_point_at_is_left_over() -> None:
    prefix = a_job().output_prefix
    keys = [f"{prefix}{name}" for name in ("2-0.png", "2-1.png", "4-0.png", "4-1.png", "odd.txt")]
    job = ended(result=stored(*keys[2:4]))
    assert leftovers(job, keys) == [*keys[:2], keys[4]]
    assert leftovers(ended(status="failed"), keys) == keys
    assert outputs_of(job, keys) == keys


def test_what_a_newer_life_of_the_job_has_stored_is_none_of_it() -> None:
    newer = [f"{a_job().output_prefix}{fence}-0.png" for fence in (5, 10)]
    job = ended(status="failed")
    assert leftovers(job, newer) == outputs_of(job, newer) == []


def test_an_attempt_is_known_by_its_fence() -> None:
    keys = [f"{a_job().output_prefix}{name}" for name in ("4-0.png", "40-0.png", "14-0.png", "4-1.png", "4.png")]
    assert stored_by(ended(), keys) == [keys[0], keys[3]]
