"""Which rejected stills a contact sheet shows: some of every reason, from beginning to end."""

from pipelines.frames.candidates import Choice, Reason, Rejected
from pipelines.frames.showing import ROW, row_of, shown_of
from tests.pipelines.frames.made import candidate


def rejected(*reasons: Reason) -> Choice:
    return Choice((), tuple(Rejected(candidate(index), reason) for index, reason in enumerate(reasons)), ())


def test_a_few_are_all_shown():
    assert row_of(range(ROW)) == list(range(ROW))


def test_of_many_some_are_shown_and_a_place_is_left_to_say_so():
    row = row_of(range(1_000))
    assert len(row) == ROW - 1
    assert row[0] < 100 < 800 < row[-1]


def test_every_reason_has_a_row():
    assert shown_of(rejected("blurry", "duplicate", "blurry")) == [0, 1, 2]
    shown = shown_of(rejected(*["duplicate"] * 200, "nsfw", *["blurry"] * 200))
    assert len(shown) == 2 * (ROW - 1) + 1
    assert 200 in shown
