"""Checkpoints are whole or absent; a budget counts work and not waiting."""

import json
from pathlib import Path

import pytest
import torch

from training.pretrain.checkpoints import LossLog, Stopwatch, load_checkpoint, save_checkpoint

CPU = torch.device("cpu")


def test_what_is_saved_is_loaded(tmp_path: Path):
    save_checkpoint(tmp_path / "deep" / "a.pt", {"weights": torch.arange(3), "step": 7})
    state = load_checkpoint(tmp_path / "deep" / "a.pt", CPU)
    assert state is not None
    assert state["weights"].tolist() == [0, 1, 2]
    assert state["step"] == 7


def test_no_checkpoint_is_none(tmp_path: Path):
    assert load_checkpoint(tmp_path / "a.pt", CPU) is None


def test_a_save_that_breaks_off_leaves_the_old_checkpoint(tmp_path: Path):
    save_checkpoint(tmp_path / "a.pt", {"step": 1})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(tmp_path / "a.pt", {"step": 2, "bad": lambda: None})
    assert load_checkpoint(tmp_path / "a.pt", CPU) == {"step": 1}


def test_the_stopwatch_goes_on_from_earlier_runs():
    watch = Stopwatch(spent_s=75.0, budget_s=100.0)
    assert watch.progress == pytest.approx(0.75, abs=0.01)
    assert Stopwatch(spent_s=500.0, budget_s=100.0).progress == 1.0


def test_the_log_appends_one_json_line_a_report(tmp_path: Path):
    for step in (1, 2):
        LossLog(tmp_path / "loss.jsonl").write(stage="x", step=step, loss=0.5)
    lines = [json.loads(line) for line in (tmp_path / "loss.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
