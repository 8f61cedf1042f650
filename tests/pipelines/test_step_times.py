"""The table of step times: what it reads between and beyond its entries, how it learns, measures and is kept."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import OutOfMemory
from pipelines.step_times import Curve, Size, StepTimes

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
FINGERPRINT = {"device": "cpu", "dtype": "float32"}
counts = st.integers(1, 64)
seconds = st.floats(1e-4, 10)
edges_px = st.sampled_from([64, 96, 128, 192, 512])


def table_of(curves: dict[Size, Curve]) -> StepTimes:
    """A table measured on a device that needs exactly these times."""
    table = StepTimes(FINGERPRINT)
    for size, curve in curves.items():
        known = dict(curve)
        table.measure([size], known, lambda width, height, rows, known=known: known[rows], 1e9, clock=lambda: 0.0)
    return table


@st.composite
def tables(draw) -> StepTimes:
    curves = draw(
        st.dictionaries(
            st.tuples(edges_px, edges_px), st.dictionaries(counts, seconds, min_size=1, max_size=6), max_size=3
        )
    )
    return table_of({size: tuple(curve.items()) for size, curve in curves.items()})


# Reading


@untimed
@given(tables(), edges_px, edges_px, counts)
def test_expected_time_is_always_positive(table, width_px, height_px, rows) -> None:
    assert table(width_px, height_px, rows) > 0


@untimed
@given(tables())
def test_measured_entries_are_read_exactly(table) -> None:
    for width_px, height_px, rows, expected_s in table.entries():
        assert table(width_px, height_px, rows) == expected_s


def test_between_and_beyond_measured_rows_times_lie_on_straight_lines() -> None:
    table = table_of({(64, 64): ((1, 1.0), (4, 4.0), (8, 6.0))})
    assert table(64, 64, 2) == pytest.approx(2.0)
    assert table(64, 64, 6) == pytest.approx(5.0)
    assert table(64, 64, 16) == pytest.approx(10.0)


def test_more_rows_than_measured_never_take_less_than_the_largest_measured() -> None:
    table = table_of({(64, 64): ((1, 3.0), (2, 5.0), (4, 4.0))})
    assert table(64, 64, 32) == 5.0


def test_fewer_rows_than_measured_take_less_but_not_less_than_in_proportion() -> None:
    table = table_of({(64, 64): ((4, 4.0), (8, 10.0))})
    assert table(64, 64, 2) == pytest.approx(2.0)
    assert table_of({(64, 64): ((4, 4.0), (8, 3.0))})(64, 64, 2) == 4.0


def test_one_known_row_count_promises_some_gain_from_packing_so_that_it_gets_tried() -> None:
    table = table_of({(64, 64): ((1, 1.0),)})
    assert 1.0 < table(64, 64, 8) < 8.0


def test_unknown_size_is_scaled_by_pixels_from_the_only_known_one() -> None:
    table = table_of({(64, 64): ((1, 1.0), (8, 4.0))})
    assert table(128, 64, 8) == pytest.approx(8.0)
    assert table(64, 32, 1) == pytest.approx(0.5)


def test_two_known_sizes_tell_overhead_from_cost_per_pixel() -> None:
    table = table_of({(64, 64): ((1, 2.0),), (128, 64): ((1, 3.0),)})
    assert table(192, 64, 1) == pytest.approx(4.0)
    assert table(96, 64, 1) == pytest.approx(2.5)
    assert table(32, 64, 1) == pytest.approx(1.5)


def test_empty_table_guesses_in_proportion_to_pixels() -> None:
    table = StepTimes(FINGERPRINT)
    assert table(128, 128, 4) == pytest.approx(4 * table(64, 64, 4))
    assert table(64, 64, 8) > table(64, 64, 4)


# Learning


@untimed
@given(st.floats(0.5, 2.0), st.sampled_from([1, 3, 8, 20, 60]))
def test_steady_observations_become_the_expectation(factor, rows) -> None:
    table = table_of({(64, 64): ((1, 1.0), (4, 2.0), (16, 6.0))})
    true_s = table(64, 64, rows) * factor
    for _ in range(120):
        table.observe(64, 64, rows, true_s)
    assert table(64, 64, rows) == pytest.approx(true_s, rel=0.02)


def test_one_outlier_hardly_moves_the_table() -> None:
    table = table_of({(64, 64): ((1, 1.0), (8, 4.0))})
    table.observe(64, 64, 8, 4000.0)
    assert table(64, 64, 8) < 4.0 * 1.1


def test_slow_hour_of_the_whole_device_does_not_make_packing_look_bad() -> None:
    table = table_of({(64, 64): ((1, 1.0), (8, 4.0))})
    for _ in range(100):
        table.observe(64, 64, 8, 2 * 4.0)
    assert table(64, 64, 8) / 8 < 0.8 * table(64, 64, 1)
    for _ in range(100):
        table.observe(64, 64, 8, 4.0)
    assert table(64, 64, 8) == pytest.approx(4.0, rel=0.01)
    assert table(64, 64, 1) == pytest.approx(1.0, rel=0.05)


def test_row_count_far_from_every_entry_becomes_one() -> None:
    table = table_of({(64, 64): ((1, 1.0), (2, 1.5))})
    table.observe(64, 64, 3, 2.0)
    table.observe(64, 64, 16, 9.0)
    assert [entry[2] for entry in table.entries()] == [1, 2, 16]
    assert table(64, 64, 16) == pytest.approx(9.0, rel=0.1)


def test_first_step_of_an_unknown_size_starts_its_curve() -> None:
    table = StepTimes(FINGERPRINT)
    table.observe(64, 64, 2, 0.25)
    assert table(64, 64, 2) == pytest.approx(0.25)


@untimed
@given(st.lists(st.tuples(edges_px, counts, st.floats(1e-6, 1e3)), max_size=60))
def test_whatever_is_observed_the_table_stays_positive_and_small(observations) -> None:
    table = StepTimes(FINGERPRINT)
    for width_px, rows, observed_s in observations:
        table.observe(width_px, 64, rows, observed_s)
    assert all(expected_s > 0 for *_, expected_s in table.entries())
    assert len(table.entries()) <= 7 * len({width_px for width_px, _, _ in observations})  # 1, 2, 4 … 64


# Measuring


class FakeDevice:
    """A device whose steps take a known time, on its own clock."""

    def __init__(self, max_rows: int = 1000, hiccup_s: float = 0.0) -> None:
        self.now_s, self.max_rows, self.hiccup_s = 0.0, max_rows, hiccup_s
        self.runs: list[tuple[int, int, int]] = []

    def run(self, width_px: int, height_px: int, rows: int) -> float:
        step_s = self.step_s(width_px, height_px, rows) + (self.hiccup_s if self._is_first(width_px, rows) else 0.0)
        self.runs.append((width_px, height_px, rows))
        if rows > self.max_rows:
            raise OutOfMemory(f"{rows} rows")
        self.now_s += step_s
        return step_s

    @staticmethod
    def step_s(width_px: int, height_px: int, rows: int) -> float:
        return 1.0 + rows * width_px * height_px / 4096

    def _is_first(self, width_px: int, rows: int) -> bool:
        return not any(run[0] == width_px and run[2] == rows for run in self.runs)


def measured(device: FakeDevice, budget_s: float, table: StepTimes | None = None) -> StepTimes:
    table = table or StepTimes(FINGERPRINT)
    table.measure([(128, 64), (64, 64)], (1, 2, 4), device.run, budget_s, clock=lambda: device.now_s)
    return table


def test_every_missing_pair_is_measured_smaller_first() -> None:
    device = FakeDevice()
    table = measured(device, 1e9)
    assert len(table.entries()) == 6
    work = [width_px * height_px * rows for width_px, height_px, rows in device.runs]
    assert work == sorted(work)
    assert all(table(*run) == device.step_s(*run) for run in device.runs)


def test_warm_up_of_the_first_run_is_not_in_the_table() -> None:
    device = FakeDevice(hiccup_s=100.0)
    assert measured(device, 1e9)(64, 64, 4) == device.step_s(64, 64, 4)


def test_what_is_known_is_not_measured_again() -> None:
    device = FakeDevice()
    table = measured(device, 1e9)
    num_runs = len(device.runs)
    measured(device, 1e9, table)
    assert len(device.runs) == num_runs


@untimed
@given(st.floats(0, 100))
def test_measuring_stops_when_the_budget_is_used(budget_s) -> None:
    device = FakeDevice()
    measured(device, budget_s)
    longest_s = max((device.step_s(*run) for run in device.runs), default=0.0)
    assert device.now_s <= budget_s + longest_s


def test_without_a_budget_nothing_is_run() -> None:
    device = FakeDevice()
    measured(device, 0.0)
    assert device.runs == []


def test_out_of_memory_is_reported_and_larger_row_counts_of_that_size_are_skipped() -> None:
    device, table = FakeDevice(max_rows=2), StepTimes(FINGERPRINT)
    too_large = table.measure([(64, 64), (128, 64)], (1, 2, 4, 8), device.run, 1e9, clock=lambda: device.now_s)
    assert set(too_large) == {(64, 64, 4), (128, 64, 4)}
    assert max(rows for _, _, rows in device.runs) == 4
    assert sorted(entry[:3] for entry in table.entries()) == [(64, 64, 1), (64, 64, 2), (128, 64, 1), (128, 64, 2)]


# Keeping


@untimed
@given(table=tables())
def test_saved_table_comes_back_as_it_was(table, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("times") / "below" / "steps.json"
    table.save(path)
    loaded = StepTimes.load(path, FINGERPRINT)
    assert loaded.ignored is None
    assert sorted(loaded.entries()) == sorted(table.entries())
    assert [file.name for file in path.parent.iterdir()] == ["steps.json"]


def test_table_of_another_device_is_ignored_and_the_reason_names_both(tmp_path: Path) -> None:
    table_of({(64, 64): ((1, 1.0),)}).save(tmp_path / "steps.json")
    loaded = StepTimes.load(tmp_path / "steps.json", FINGERPRINT | {"device": "cuda"})
    assert loaded.entries() == []
    assert loaded.ignored == "device was 'cpu', is 'cuda'"


def test_missing_table_is_no_error(tmp_path: Path) -> None:
    loaded = StepTimes.load(tmp_path / "steps.json", FINGERPRINT)
    assert loaded.entries() == []
    assert loaded.ignored == "no table saved yet"


def without_seconds(saved: dict) -> str:
    return json.dumps(saved | {"steps": [[64, 64, 1]]})


def with_seconds(value: float) -> Callable[[dict], str]:
    return lambda saved: json.dumps(saved | {"steps": [[64, 64, 1, value]]})


@pytest.mark.parametrize(
    "damage",
    [
        lambda saved: "",
        lambda saved: json.dumps(saved)[:-9],
        lambda saved: "[]",
        without_seconds,
        with_seconds(0.0),
        with_seconds(-1.0),
        with_seconds(float("nan")),
        with_seconds(float("inf")),
    ],
)
def test_damaged_table_is_ignored_with_a_reason(damage, tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    table_of({(64, 64): ((1, 1.0),)}).save(path)
    path.write_text(damage(json.loads(path.read_text())))
    loaded = StepTimes.load(path, FINGERPRINT)
    assert loaded.entries() == []
    assert loaded.ignored is not None
    assert loaded.ignored.startswith("damaged: ")


def test_failed_save_leaves_the_old_table_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "steps.json"
    table_of({(64, 64): ((1, 1.0),)}).save(path)
    before = path.read_bytes()

    def disk_full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", disk_full)
    with pytest.raises(OSError, match="No space"):
        table_of({(64, 64): ((1, 2.0),)}).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
