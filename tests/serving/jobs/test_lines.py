"""Places in line: strings whose order is that of the queue, and whose ranges are its lines."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from serving.jobs.documents import job_to_document
from serving.jobs.job import PRIORITY_RANK, TRANSITIONS, Line, place_in_line
from serving.mongo import under
from tests.serving.house import a_job

names = st.from_regex(r"[a-z0-9][a-z0-9\-]{0,3}", fullmatch=True)
models = st.from_regex(r"[a-z0-9][a-z0-9.\-]{0,3}", fullmatch=True)
lines = st.builds(Line, models, st.sampled_from([0, 1, 2]), names)
# Close relatives, which a slip in an order of strings would mix up.
relatives = st.lists(st.sampled_from(["t", "t-1", "t1", "t-", "t0", "t-0", "t--"]), min_size=2, max_size=7, unique=True)


@given(lines)
def test_a_place_says_which_line_it_is_in(line: Line) -> None:
    rank_name = {rank: name for name, rank in PRIORITY_RANK.items()}[line.priority_rank]
    job = a_job(model_id=line.model_id, priority=rank_name, tenant=line.tenant)
    assert Line.of(job) == line
    assert Line.of_place(place_in_line(job)) == line
    assert place_in_line(job).startswith(line.prefix)


@given(
    st.lists(lines, min_size=2, max_size=8, unique=True) | relatives.map(lambda some: [Line("m", 1, t) for t in some])
)
def test_the_range_of_a_line_holds_its_own_places_and_no_others(some: list[Line]) -> None:
    places = {line: [line.prefix + job_id for job_id in ("", "0", "job_1", "job_f", "~")] for line in some}
    for line in some:
        limits = under(line.prefix)
        found = [p for of_one in places.values() for p in of_one if limits["$gte"] <= p < limits["$lt"]]
        assert found == places[line]


def test_within_a_line_the_older_job_stands_first_and_high_priority_comes_before_low() -> None:
    first, second = a_job(), a_job()
    second = replace(second, id=first.id[:-1] + "~")
    assert place_in_line(first) < place_in_line(second)
    places = [place_in_line(a_job(priority=priority)) for priority in ("high", "normal", "low")]
    assert places == sorted(places)


def test_only_a_waiting_job_has_a_place_in_line_and_counts_as_waiting() -> None:
    for status in TRANSITIONS:
        document = job_to_document(replace(a_job(tenant="bob"), status=status))
        assert bool(document["line"]) is (status == "queued")
        assert document["waits_of"] == ("bob" if status == "queued" else "")
        assert document["tenant_at"].startswith("bob/job_")
