"""What trainings take here: kept on disk, corrected, and none the worse for a broken file."""

from pathlib import Path

import pytest

from configs.settings import Settings
from models.catalog import load_catalog
from serving.backends.training import TrainingError, TrainingEstimate
from serving.training import estimating, speeds
from serving.training.apart import Apart
from serving.training.estimating import Estimates, check_memory, free_memory_bytes
from serving.training.speeds import MAX_ENTRIES, Speeds, key
from serving.workspace import Workspace
from training.orders import BaseModel, Measured
from training.recipe import load_recipe

SPEC = load_catalog()["emoji-3d"]
BASE = BaseModel(SPEC.model_dump(mode="json"), "/weights", "ab" * 32, "cpu")
FIGURES = Measured(start_s=5.0, s_per_picture=0.1, s_per_step=0.2, end_s=9.0, peak_bytes=10**9)


def test_figures_outlive_the_process_and_the_newest_count(tmp_path: Path) -> None:
    newer = Measured(4.0, 0.1, 0.3, 8.0, 2 * 10**9)
    Speeds(tmp_path).note("a", FIGURES)
    Speeds(tmp_path).note("b", FIGURES)
    Speeds(tmp_path).note("a", newer)
    assert (Speeds(tmp_path).get("a"), Speeds(tmp_path).get("b")) == (newer, FIGURES)
    assert Speeds(tmp_path).get("c") is None


def test_the_file_does_not_grow_without_end_and_what_was_noted_last_stays(tmp_path: Path) -> None:
    table = Speeds(tmp_path)
    for number in range(MAX_ENTRIES):
        table.note(str(number), FIGURES)
    table.note("0", FIGURES)
    table.note("new", FIGURES)
    assert table.get("1") is None
    assert None not in [table.get("0"), table.get("2"), table.get("new")]


@pytest.mark.parametrize("text", ["", "{", '{"trainings": {"a": {"start_s": "soon"}}}', '{"others": 1}'])
def test_a_broken_file_counts_as_none_and_is_written_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / speeds.FILE).write_text(text)
    table = Speeds(tmp_path)
    assert table.get("a") is None
    table.note("a", FIGURES)
    assert Speeds(tmp_path).get("a") == FIGURES


def test_stills_and_pictures_are_running_means(tmp_path: Path) -> None:
    table = Speeds(tmp_path)
    for _ in range(40):
        table.note_frames(took_s=10.0, duration_s=5.0)
        table.note_prepared(took_s=3.0, num_pictures=6)
    assert (table.frames_s, table.prepare_s) == (pytest.approx(2.0, rel=0.01), pytest.approx(0.5, rel=0.01))
    table.note_frames(took_s=1.0, duration_s=1.0)
    assert 1.0 < table.frames_s < 2.0, "one video does not change all"


def test_figures_are_asked_for_by_what_costs_and_nothing_else() -> None:
    recipe = load_recipe("subject", SPEC)
    names = {key(recipe, BASE, num_threads=2)}
    for changes in ({"loop": {"steps": 5}}, {"captions": {"mode": "none"}}, {"optimizer": {"learning_rate": 0.5}}):
        names.add(key(load_recipe("subject", SPEC, changes), BASE, num_threads=2))
    assert len(names) == 1
    for changes in ({"loop": {"batch_size": 1}}, {"lora": {"rank": 4}}, {"pictures": {"resolution_px": 64}}):
        names.add(key(load_recipe("subject", SPEC, changes), BASE, num_threads=2))
    names.add(key(recipe, BASE, num_threads=4))
    assert len(names) == 5


def test_only_what_clearly_does_not_fit_is_refused() -> None:
    for free_bytes in (None, 10**9):
        check_memory(TrainingEstimate(1.0, 0.0, 10**9, free_bytes))
    with pytest.raises(TrainingError, match="1.0 GB .* 0.9 GB") as caught:
        check_memory(TrainingEstimate(1.0, 0.0, 10**9, 9 * 10**8))
    assert caught.value.code == "out_of_memory"


def test_a_container_has_no_more_memory_than_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_the_machine = free_memory_bytes()
    monkeypatch.setattr(estimating, "CGROUP", tmp_path)
    files = {"memory.max": "1000000", "memory.current": "900000", "memory.stat": "anon 600000\ninactive_file 250000\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert free_memory_bytes() == 1_000_000 - 900_000 + 250_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory_bytes() == pytest.approx(on_the_machine, rel=0.5)


async def test_what_cannot_be_measured_in_time_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "MEASURE_WORK", "tests.serving.training.stand_in:measure_for_ever")
    tree = {"state_dir": tmp_path, "training": {"measure_timeout_s": 0.5, "niceness": 0, "num_threads": 1}}
    settings = Settings.model_validate(tree)
    workspace = Workspace(tmp_path / "work")
    estimates = Estimates(Speeds(tmp_path), Apart(settings), workspace, settings.training)
    with pytest.raises(TrainingError) as caught:
        await estimates.figures(load_recipe("subject", SPEC), BASE)
    assert caught.value.code == "takes_too_long"
    workspace.close()
