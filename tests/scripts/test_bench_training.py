"""The training bench: both arms are the same training, shortcuts included, and no figure counts unless they are."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from configs.settings import PROJECT_DIR
from models.catalog import load_catalog
from models.loader import PIPELINES, LoadedModel
from models.weights import HeldWeights
from tests.models.tiny import make_tiny_sdxl

STEPS = 3


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Iterator[None]:
    """Where the bench's parts find each other."""
    sys.path.insert(0, str(PROJECT_DIR / "scripts"))
    yield
    sys.path.remove(str(PROJECT_DIR / "scripts"))


@pytest.fixture(scope="module")
def part(scripts: None) -> Any:
    """Its modules by name."""
    return import_module


@pytest.fixture(scope="module")
def job(part: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("pictures")
    module: ModuleType = part("training_job")
    module.draw_pictures(folder, count=4, side_px=64, seed=1)
    return module.Job(
        model=module.TINY,
        architecture=None,
        device="cpu",
        dtype="float32",
        threads=1,
        data=str(folder),
        side_px=64,
        batch_size=2,
        steps=STEPS,
        warm_up_steps=1,
        seed=3,
    )


@pytest.fixture(scope="module")
def ours(part: Any, job: Any) -> Any:
    """Before its first step."""
    return part("training_ours").Ours(job, watch(part, job))


@pytest.fixture(scope="module")
def given(part: Any, ours: Any) -> Any:
    return part("training_gate")._given(ours)


def watch(part: Any, job: Any) -> Any:
    return part("training_watch").Watch(torch.device("cpu"), batch_size=job.batch_size, warm_up_steps=0)


def test_a_run_ends_with_figures_of_all_arms_and_the_proof_that_they_are_the_same(part: Any, tmp_path: Path) -> None:
    path = tmp_path / "report/training.json"
    options = ["--tiny", "--batch-sizes", "2", "--samples", "6", "--gate-steps", "2", "--threads", "1"]
    assert part("bench_training").main([*options, "--json", str(path)]) == 0
    report = json.loads(path.read_text("utf-8"))
    assert report["figures"]["same losses"]["largest difference of a loss, relative"] < 1e-5
    assert report["figures"]["same losses"]["largest difference of a weight"] < 1e-5
    section = report["figures"]["batch 2"]
    ratio = section["ours: samples per s"] / section["diffusers: samples per s"]
    assert section["samples per s, ours / diffusers"] == pytest.approx(ratio)
    assert all(section[f"{arm}: {figure}"] > 0 for arm in ("ours", "diffusers") for figure in ("CPU s", "whole job s"))
    assert set(report["aims"]) == {
        "batch 2: samples per s, ours / diffusers ≥ 1.5",
        "batch 2: whole job, times faster, ours than diffusers ≥ 1.5",
    }
    assert path.with_suffix(".md").read_text("utf-8").startswith("# Training tiny at 64 px, float32")


def test_shortcuts_do_not_change_what_is_learned(part: Any, job: Any, given: Any, tmp_path: Path) -> None:
    baseline = part("training_baseline")
    all_of_them = baseline.Shortcuts(keeps_latents=True, keeps_texts=True, reads_no_loss=True, fuses_adamw=True)
    results = []
    for name, shortcuts in (("plain", baseline.Shortcuts()), ("short", all_of_them)):
        folder = tmp_path / name
        path, losses = baseline.train(job, watch(part, job), folder, shortcuts=shortcuts, given=given)
        results.append((losses, load_file(path)))
    assert len(results[0][0]) == STEPS
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-5)
    for name, tensor in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], tensor, rtol=0, atol=1e-5)


def test_with_sdxl_both_arms_are_the_same_training_too(
    part: Any, job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, folder = load_catalog()["sdxl"], make_tiny_sdxl(tmp_path / "sdxl")

    def load(_job: Any) -> LoadedModel:
        pipeline = PIPELINES["sdxl"].from_pretrained(str(folder))
        held = HeldWeights(folder, is_override=True)
        return LoadedModel(spec, pipeline, torch.device("cpu"), torch.float32, "tiny", held)

    for name in ("training_ours", "training_baseline", "training_gate"):
        monkeypatch.setattr(part(name), "load", load)
    gate = part("training_gate")
    section = gate.check(job)
    assert section[gate.LOSS] < 1e-5 and section[gate.WEIGHTS] < 1e-5
    assert section[gate.NUM_TENSORS] == 64


@pytest.mark.parametrize(("name", "value"), [("LEARNING_RATE", 1e-2), ("MAX_GRAD_NORM", 1e-9)])
def test_another_training_does_not_pass_the_gate(
    name: str, value: float, part: Any, job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part("training_baseline"), name, value)
    gate = part("training_gate")
    assert gate.what_differs(gate.check(job)) is not None


def test_files_of_different_layers_do_not_pass_the_gate(part: Any) -> None:
    gate, tensor = part("training_gate"), torch.zeros(2)
    section = gate.differences([1.0, 2.0], [1.0, 2.0], {"a": tensor}, {"a": tensor})
    assert gate.what_differs(section) is None
    assert "a loss differs by 0.5" in gate.what_differs(section | {gate.LOSS: 0.5})
    assert "a trained weight differs by 0.01" in gate.what_differs(section | {gate.WEIGHTS: 0.01})
    assert gate.what_differs(section | {gate.LOSS: float("nan")}) is not None
    with pytest.raises(KeyError, match="b is in one file only"):
        gate.differences([1.0], [1.0], {"a": tensor, "b": tensor}, {"a": tensor})


def test_only_steps_after_the_warm_up_are_steady(part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = part("training_watch")
    now_s = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now_s[0])
    watched = module.Watch(torch.device("cpu"), batch_size=4, warm_up_steps=2)
    for step_s in (7.0, 3.0, 0.5, 0.5, 1.0):
        watched.step()
        now_s[0] += step_s
    watched.learned()
    now_s[0] += 8.0
    watched.learned()
    taken = watched.taken()
    assert (taken.samples_per_s, taken.job_s, taken.first_step_s) == (3 * 4 / 2.0, 20.0, 7.0)


def test_ratios_are_taken_within_a_repeat(part: Any) -> None:
    figures = part("training_figures")

    def taken(samples_per_s: float, job_s: float) -> dict[str, float]:
        return {"samples_per_s": samples_per_s, "job_s": job_s, "first_step_s": 1, "peak_bytes": 2**20, "cpu_s": 1}

    section = figures.summarised(
        {"diffusers": [taken(1, 10), taken(0.1, 100), taken(2, 6)], "ours": [taken(2, 5), taken(0.3, 20), taken(8, 3)]},
        base="diffusers",
    )
    assert section["samples per s, ours / diffusers"] == pytest.approx(3.0)
    assert section["whole job, times faster, ours than diffusers"] == pytest.approx(2.0)
    assert (section["ours: peak memory MiB"], section["ours: samples per s"]) == (1.0, 2)


@pytest.mark.parametrize(("device", "bound"), [("cpu", 1.5), ("cuda", 2.0)])
def test_more_is_asked_of_a_gpu(device: str, bound: float, part: Any) -> None:
    aims = part("training_figures").aims_for([1, 4], torch.device(device), ours="ours", base="diffusers")
    assert [(aim.section, aim.bound) for aim in aims] == [("batch 1", bound)] * 2 + [("batch 4", bound)] * 2


def test_a_ladder_goes_from_their_loop_to_ours(part: Any) -> None:
    parse = part("bench_training").parse_args
    assert parse(["--device", "cpu"]).arms == ["diffusers", "ours"]
    ladder = parse(["--device", "cpu", "--ladder", "--compile"]).arms
    assert ladder == ["diffusers", "+ latents kept", "+ texts kept", "+ no loss read", "+ fused AdamW", "ours"]


def test_an_arm_that_fails_ends_the_bench(part: Any, job: Any, tmp_path: Path) -> None:
    module = part("training_arm")
    with pytest.raises(module.BenchFailed, match=r"ours ended with 1: [\s\S]*IndexError"):
        module.run_apart("ours", replace(job, data=str(tmp_path)))
