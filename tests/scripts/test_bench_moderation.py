"""The moderation bench counts what it did, and says what is wrong before it measures."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from configs.settings import PROJECT_DIR
from tests.moderators import StandInClassifier

SCRIPT = PROJECT_DIR / "scripts" / "bench_moderation.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_moderation", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_moderation"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_whole_batches_are_counted_and_the_first_is_not(bench: ModuleType) -> None:
    classifier = StandInClassifier()
    files = [bench.make_file(seed, side_px=32, format="png") for seed in range(3)]
    pixels, whole = bench.measure(classifier, files, 8, seconds=0.01)
    assert (pixels.what, whole.what) == ("from pixels", "from files")
    assert set(classifier.batch_sizes) == {8}
    assert classifier.num_seen == pixels.num_pictures + whole.num_pictures + 2 * 8
    for row in (pixels, whole):
        assert row.pictures_per_s == pytest.approx(8 * 1_000 / row.ms_per_batch, rel=0.5)


def test_the_script_prints_a_table_and_keeps_its_figures(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        "--seconds",
        "0.01",
        "--side",
        "64",
        "--json",
        str(tmp_path / "a" / "b.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "open-nsfw" in done.stdout
    kept = json.loads((tmp_path / "a" / "b.json").read_text())
    assert [(row["what"], row["batch"]) for row in kept["rows"]] == [
        (what, batch) for batch in (1, 8, 32) for what in ("from pixels", "from files")
    ]
    assert all(row["pictures_per_s"] > 0 for row in kept["rows"])


def test_a_classifier_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"moderation: {{classifier: transformers, model: {tmp_path / 'none'}}}")
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "/usr/bin:/bin", "DARKROOM_CONFIG": str(config), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("bench_moderation: The classifier none cannot be loaded")
    assert "Traceback" not in done.stderr
