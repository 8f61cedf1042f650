"""The bench of stills measures what it says, and refuses to measure what comes out wrong."""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from configs.settings import PROJECT_DIR
from pipelines.video.decoding import Still, Video


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    sys.path.insert(0, str(PROJECT_DIR / "scripts"))
    yield import_module("bench_frames")
    sys.path.remove(str(PROJECT_DIR / "scripts"))


@pytest.fixture(scope="module")
def folder(bench: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With both videos in it, two seconds each."""
    folder = tmp_path_factory.mktemp("bench")
    for gop in bench.GOPS:
        bench.draw_clip(folder / f"bench-2s-gop{gop}.mp4", gop=gop, num_frames=60, preset="ultrafast")
    return folder


def arguments(folder: Path) -> list[str]:
    words = ["--seconds", "2", "--runs", "1", "--preset", "ultrafast", "--keep", str(folder)]
    return [*words, "--json", str(folder / "figures.json")]


def test_every_method_is_measured_on_both_files(bench: ModuleType, folder: Path) -> None:
    assert bench.main(arguments(folder)) == 0
    figures = json.loads((folder / "figures.json").read_text())
    assert {(row["method"], row["gop"]) for row in figures["rows"]} == {
        (method, gop) for method in bench.METHODS for gop in (250, 30)
    }
    assert all(row["seconds"] > 0 and row["wanted_per_s"] > 0 for row in figures["rows"])
    assert figures["is_met"] == all(row["ratio"] >= 2 for row in figures["rows"] if row["method"] == "Video.take")


def test_all_methods_find_the_same_number_of_pictures(bench: ModuleType, folder: Path) -> None:
    found = {name: method(folder / "bench-2s-gop30.mp4") for name, method in bench.METHODS.items()}
    assert found.pop("Video.survey 8/s") == 16
    assert set(found.values()) == {2}


@pytest.mark.parametrize("wrong", ["time", "pixels"])
def test_what_comes_out_wrong_is_not_measured(
    bench: ModuleType, folder: Path, wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    take = Video.take

    def wrongly(self: Video, times_s: list[float]) -> Iterator[Still]:
        for still in take(self, times_s):
            yield Still(still.time_s + 0.01, still.rgb) if wrong == "time" else Still(still.time_s, still.rgb ^ 1)

    monkeypatch.setattr(Video, "take", wrongly)
    assert bench.main(arguments(folder)) == 2
    assert "not measured" in capsys.readouterr().err
