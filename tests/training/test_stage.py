"""Stages: what they count, what they drop, and that what is done is found again."""

from pathlib import Path

import pytest

from training.stage import Dropped, Mark, Stage


def double(number: int) -> int | Dropped:
    return Dropped("odd") if number % 2 else 2 * number


def test_what_is_dropped_is_counted_by_its_reason_and_kept_aside() -> None:
    stage = Stage(double)
    assert list(stage([1, 2, 3, 4])) == [(2, 4), (4, 8)]
    assert stage.counts == {"in": 4, "out": 2, "odd": 2}
    assert stage.dropped == [(1, "odd"), (3, "odd")]


def test_it_takes_an_item_only_when_it_is_asked_for_one() -> None:
    taken: list[int] = []
    results = Stage(lambda number: taken.append(number) or number)(iter([1, 2, 3]))
    next(results)
    assert taken == [1]


def test_it_tells_how_many_are_done_the_dropped_ones_among_them() -> None:
    told: list[int] = []
    list(Stage(double, tell=told.append)([1, 2, 3]))
    assert told == [1, 2, 3]


def run(path: Path, items: list[int], *, fails_at: int | None = None) -> tuple[list[tuple[int, int]], list[int]]:
    taken: list[int] = []

    def step(number: int) -> int | Dropped:
        if number == fails_at:
            raise OSError("killed")
        taken.append(number)
        return double(number)

    with Mark(path) as mark:
        stage = Stage(step, mark=mark, key=str)
        out = list(stage(items))
        assert stage.num_found == len(items) - len(taken)
        return out, taken


def test_what_was_done_before_a_kill_is_found_again_and_not_done_twice(tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "undisturbed", [1, 2, 3, 4])
    with pytest.raises(OSError, match="killed"):
        run(tmp_path / "mark", [1, 2, 3, 4], fails_at=3)
    assert run(tmp_path / "mark", [1, 2, 3, 4]) == (whole, [3, 4])
    assert run(tmp_path / "mark", [1, 2, 3, 4]) == (whole, [])


@pytest.mark.parametrize("lost_bytes", [1, 2, 5])
def test_a_line_that_was_torn_apart_is_done_again(tmp_path: Path, lost_bytes: int) -> None:
    whole, _ = run(tmp_path / "mark", [2, 3, 4])
    written = (tmp_path / "mark").read_bytes()
    (tmp_path / "mark").write_bytes(written[:-lost_bytes])
    assert run(tmp_path / "mark", [2, 3, 4]) == (whole, [4])
    assert (tmp_path / "mark").read_bytes() == written
