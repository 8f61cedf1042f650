"""News of the parts of a training as one progress."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.request import Preview, Progress
from serving.training import report as report_module
from serving.training.report import Report
from training.orders import PREVIEWS


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def report(tmp_path: Path, told: list[Any]) -> Report:
    (tmp_path / PREVIEWS).mkdir()
    (tmp_path / PREVIEWS / "1.png").write_bytes(b"small")
    (tmp_path / "secret.png").write_bytes(b"not for anybody")
    return Report(100, tmp_path, told.append)


def test_what_is_done_again_after_a_crash_does_not_turn_progress_back(report: Report, told: list[Progress]) -> None:
    for stage, done in (("cache", 3), ("train", 60), ("cache", 1), ("train", 40), ("train", 61)):
        news = {"stage": "train", "step": done, "steps": 100} if stage == "train" else {"done": done, "of": 3}
        report.hear({"stage": stage, **news})
    shares = [one.share for one in told]
    assert shares == sorted(one or 0.0 for one in shares)
    assert shares[1] == shares[2] == shares[3] < shares[4]
    assert [one.step for one in told] == [0, 60, 60, 40, 61], "steps are told as they are"


def test_before_its_first_step_the_estimate_says_how_long_it_takes_then_the_steps_do(
    report: Report, told: list[Progress]
) -> None:
    report.at("frames")
    report.expect(500.0, after_s=30.0)
    report.at("frames", 0.5)
    report.hear({"stage": "train", "step": 1, "steps": 100, "loss": 0.5, "eta_s": 200.0})
    assert [one.eta_s for one in told] == [None, pytest.approx(500.0, abs=5.0), 230.0]
    assert told[-1].loss == 0.5


def test_what_nobody_knows_is_not_told(report: Report, told: list[Any]) -> None:
    for news in ({"stage": "dreaming", "done": 1, "of": 2}, {"pid": 7}, {"stage": "cache", "done": "all", "of": 3}):
        report.hear(news)
    assert told == []


def test_a_preview_is_shown_from_its_own_folder_and_only_a_small_one(
    report: Report, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    report.hear({"preview": "1.png", "step": 20, "prompt": "p", "seed": 1})
    assert told == [Preview(0, 20, b"small", "image/png")]
    with pytest.raises(FileNotFoundError):
        report.hear({"preview": "../secret.png", "step": 20, "prompt": "p", "seed": 1})
    monkeypatch.setattr(report_module, "MAX_PREVIEW_BYTES", 4)
    report.hear({"preview": "1.png", "step": 21, "prompt": "p", "seed": 1})
    assert len(told) == 1
