"""Warming up measures every size that the catalogue suggests, and says what did not fit."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from configs.settings import EngineSettings
from pipelines.families.base import StepOutcome
from pipelines.sample import Sample
from pipelines.step_times import StepTimes
from pipelines.warm_up import sizes_of, table_fingerprint, warm_up
from tests.models.tiny import tiny_spec
from tests.pipelines.bench import Bench

SETTINGS = EngineSettings(measure_rows=(1, 2, 4), measure_budget_s=30.0)


def measured(bench: Bench, settings: EngineSettings, times: StepTimes) -> list[int]:
    with torch.inference_mode():
        return warm_up(bench.runner, times, settings)


def test_every_suggested_size_is_timed_with_every_number_of_rows(bench: Bench) -> None:
    times = StepTimes({})
    assert measured(bench, SETTINGS, times) == []
    sizes = sizes_of(bench.loaded.spec)
    assert {(width, height, rows) for width, height, rows, _ in times.entries()} == {
        (*size, rows) for size in sizes for rows in SETTINGS.measure_rows
    }
    assert all(seconds > 0 for *_, seconds in times.entries())


def test_what_is_known_already_is_not_timed_again(sd: Bench) -> None:
    times = StepTimes({})
    measured(sd, SETTINGS, times)
    before = times.entries()
    measured(sd, SETTINGS, times)
    assert times.entries() == before


def test_without_a_budget_nothing_is_timed(sd: Bench) -> None:
    times = StepTimes({})
    measured(sd, EngineSettings(measure_budget_s=0.0), times)
    assert times.entries() == []


def test_steps_that_do_not_fit_are_told_by_their_pixels(sd: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    family = sd.runner
    step = family.step

    def run_out(samples: Sequence[Sample]) -> StepOutcome:
        if len(samples) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(samples)

    monkeypatch.setattr(family, "step", run_out)
    times = StepTimes({})
    sizes = sizes_of(sd.loaded.spec)
    assert measured(sd, SETTINGS, times) == [4 * width_px * height_px for width_px, height_px in sizes]
    assert {rows for *_, rows, _ in times.entries()} == {1, 2}


def test_any_other_trouble_stops_the_start(sd: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(samples: Sequence[Sample]) -> StepOutcome:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(sd.runner, "step", fail)
    with pytest.raises(RuntimeError, match="no such kernel"):
        measured(sd, SETTINGS, StepTimes({}))


def test_sizes_come_smallest_first_and_once_with_the_smallest_that_is_allowed() -> None:
    spec = tiny_spec("sd").model_copy(update={"sizes": ("128x64", "64x64", "64x128", "64x64")})
    assert spec.limits.min_side_px == 32
    assert sizes_of(spec) == [(32, 32), (64, 64), (64, 128), (128, 64)]


def test_times_are_not_taken_over_by_other_weights_or_settings(sd: Bench) -> None:
    here = table_fingerprint(sd.loaded, SETTINGS)
    assert here == table_fingerprint(sd.loaded, SETTINGS)
    others: list[dict[str, Any]] = [
        table_fingerprint(replace(sd.loaded, weights_sha256="1" * 64), SETTINGS),
        table_fingerprint(replace(sd.loaded, dtype=torch.bfloat16), SETTINGS),
        table_fingerprint(sd.loaded, EngineSettings(channels_last=False)),
        table_fingerprint(sd.loaded, EngineSettings(compile=True)),
    ]
    assert all(other != here for other in others)
