"""The engine's bench: fair requests, servers that do what they claim, right sums, and no figure without proof."""

import io
import json
import queue
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from configs.settings import PROJECT_DIR
from models.catalog import load_catalog
from models.lora_files import read_lora
from models.spec import ModelSpec
from tests.models.tiny import make_tiny_sd

SPEC: ModelSpec = load_catalog()["emoji-3d"]


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Iterator[None]:
    """Where the bench's parts find each other."""
    sys.path.insert(0, str(PROJECT_DIR / "scripts"))
    yield
    sys.path.remove(str(PROJECT_DIR / "scripts"))


@pytest.fixture(scope="module")
def bench(scripts: None) -> ModuleType:
    return import_module("bench_engine")


@pytest.fixture(scope="module")
def workload(scripts: None) -> ModuleType:
    return import_module("engine_workload")


@pytest.fixture(scope="module")
def baselines(scripts: None) -> ModuleType:
    return import_module("engine_baselines")


@pytest.fixture(scope="module")
def figures(scripts: None) -> ModuleType:
    return import_module("engine_figures")


class FakePipeline:
    """Notes what it is called with; every picture's colour is its seed."""

    def __init__(self) -> None:
        self.scheduler = DDIMScheduler()
        self.calls: list[tuple[int, str]] = []  # how many pictures, with which adapter
        self.may_go, self.has_begun = threading.Event(), threading.Event()
        self.may_go.set()
        self._adapter = "none"

    def enable_lora(self) -> None: ...

    def disable_lora(self) -> None:
        self._adapter = "none"

    def set_adapters(self, names: list[str], scales: list[float]) -> None:
        self._adapter = names[0]

    def __call__(self, *, prompt: list[str], generator: list[torch.Generator], **_: Any) -> SimpleNamespace:
        self.has_begun.set()
        assert self.may_go.wait(60)
        self.calls.append((len(prompt), self._adapter))
        if "fail" in prompt:
            raise RuntimeError("no memory")
        return SimpleNamespace(images=[Image.new("L", (8, 8), each.initial_seed() % 256) for each in generator])


def request(workload: ModuleType, **changes: Any) -> Any:
    made = workload.make_requests(SPEC, workload_adapters(workload), 1, sides_px=(64,), seed=1)[0]
    return workload.replace(made, **{"loras": (), **changes})


def workload_adapters(workload: ModuleType) -> list[Any]:
    return [workload.LoraChoice(f"adapter-{index}") for index in range(workload.NUM_ADAPTERS)]


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_same_seed_asks_for_the_same_and_the_mix_is_the_one_promised(workload: ModuleType) -> None:
    adapters, sides_px = workload_adapters(workload), workload.default_sides_px(SPEC)
    requests = workload.make_requests(SPEC, adapters, 2000, sides_px=sides_px, seed=7)
    assert requests == workload.make_requests(SPEC, adapters, 2000, sides_px=sides_px, seed=7)
    sides = Counter(request.width_px for request in requests)
    assert [sides[side] / 2000 for side in (64, 96, 128, 192)] == pytest.approx([0.15, 0.25, 0.45, 0.15], abs=0.03)
    assert sum(not request.guidance_scale for request in requests) / 2000 == pytest.approx(0.2, abs=0.03)
    assert sum(bool(request.loras) for request in requests) / 2000 == pytest.approx(0.5, abs=0.03)
    assert {request.num_inference_steps for request in requests} == set(range(20, 36))
    assert len({request.loras for request in requests}) == workload.NUM_ADAPTERS + 1


def test_arrivals_come_at_the_rate_asked_for(workload: ModuleType) -> None:
    moments_s = workload.poisson_arrivals_s(5.0, 4000, seed=2)
    assert moments_s[0] == 0
    assert moments_s == sorted(moments_s)
    assert moments_s[-1] == pytest.approx(4000 / 5.0, rel=0.05)


def test_adapters_are_files_that_the_engine_can_read(workload: ModuleType, tmp_path: Path) -> None:
    folder = make_tiny_sd(tmp_path / "sd")
    pipeline = import_module("diffusers").StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    adapters = workload.write_adapters(tmp_path, pipeline.unet, "unet", seed=1)
    weights = [read_lora(Path(adapter.file.key), pipeline, "sd") for adapter in adapters]
    assert {layer.rank for each in weights for layer in each.layers.values()} == set(workload.RANKS)
    assert len({adapter.file.sha256 for adapter in adapters}) == workload.NUM_ADAPTERS


@pytest.mark.parametrize(
    ("max_batch", "expected"),
    [
        (1, [(1, "none"), (1, "adapter-0"), (1, "none"), (1, "none"), (1, "none")]),
        (3, [(3, "none"), (1, "adapter-0"), (1, "none")]),
    ],
)
def test_plain_diffusers_takes_the_oldest_and_those_that_equal_it(
    workload: ModuleType, baselines: ModuleType, max_batch: int, expected: list[tuple[int, str]]
) -> None:
    pipeline, plain = FakePipeline(), request(workload)
    pipeline.may_go.clear()  # until all are in the queue
    server = baselines.PlainDiffusers(pipeline, SPEC, max_batch=max_batch)
    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
    server.submit(request(workload, width_px=128), ended.put)
    assert pipeline.has_begun.wait(60)
    adapted = workload.replace(plain, loras=(workload_adapters(workload)[0],))
    for each in (plain, adapted, *(workload.replace(plain, seed=seed) for seed in (5, 6, 7))):
        server.submit(each, ended.put)
    pipeline.may_go.set()
    results = [ended.get(timeout=60) for _ in range(6)]
    server.close()
    assert pipeline.calls == [(1, "none"), *expected]
    assert len({result.images[0].seed for result in results}) == 4


def test_a_run_keeps_pictures_and_latencies_by_request(workload: ModuleType, baselines: ModuleType) -> None:
    server = baselines.PlainDiffusers(FakePipeline(), SPEC)
    requests = [request(workload, seed=seed) for seed in (10, 20, 30)]
    run = baselines.play(server, requests, [0.0, 0.0, 0.0])
    server.close()
    assert run.latencies_s == sorted(run.latencies_s)
    assert run.wall_s >= run.latencies_s[2]
    assert [np.asarray(Image.open(io.BytesIO(data)))[0, 0] for data in run.pictures] == [10, 20, 30]


def test_a_request_that_fails_ends_the_bench(workload: ModuleType, baselines: ModuleType) -> None:
    server = baselines.PlainDiffusers(FakePipeline(), SPEC)
    with pytest.raises(baselines.BenchFailed, match="no memory"):
        baselines.play(server, [request(workload, prompt="fail")], [0.0])
    server.close()


def test_ratios_are_taken_within_a_repeat(figures: ModuleType) -> None:
    section = figures.throughput({"A": [1.0, 0.1, 2.0], "B": [1.0, 0.1, 2.0], "ours": [2.0, 0.3, 8.0]})
    assert section["ours / A"] == pytest.approx(3.0)
    assert section["B / A"] == 1.0
    latency = figures.latency({"A": [4.0, 2.0], "ours": [1.0, 3.0]})
    assert (latency["A p50 s"], latency["A p95 s"], latency["mean ours / A"]) == (2.0, 4.0, pytest.approx(2 / 3))


def test_aims_are_judged_in_their_own_direction_and_only_where_measured(figures: ModuleType) -> None:
    found = {"burst": {"ours / A": 1.9}, "loop": {"share outside the denoiser": 0.08}}
    verdicts = figures.verdicts(found, figures.aims_for("emoji-3d", torch.device("cpu")))
    assert verdicts == {"burst: ours / A ≥ 2": False, "loop: share outside the denoiser ≤ 0.08": True}


def test_figures_without_equal_pictures_mean_nothing(bench: ModuleType, figures: ModuleType) -> None:
    near = {figures.PICTURES: figures.compare([png(100), png(7)], [png(102), png(7)])}
    far = {figures.PICTURES: figures.compare([png(100)], [png(103)])}
    assert near[figures.PICTURES]["largest difference of 255"] == 2
    assert bench.what_differs(near, torch.float32) is None
    assert "off by 3" in bench.what_differs(far, torch.float32)
    assert bench.what_differs(far, torch.bfloat16) is None
    other = {figures.PICTURES: figures.compare([png(100)], [png(200)])}
    assert "PSNR" in bench.what_differs(other, torch.bfloat16)


@pytest.mark.parametrize(
    ("architecture", "component", "num_parameters"),
    [
        ("sd15", "unet", 859_520_964),
        ("sd15", "vae", 83_653_863),
        ("sdxl", "unet", 2_567_463_684),
        ("sdxl", "text_encoder_2", 694_659_840),
        ("flux", "transformer", 11_901_408_320),
        ("flux", "text_encoder_2", 4_762_310_656),
    ],
)
def test_random_weights_have_the_published_models_size(
    scripts: None, architecture: str, component: str, num_parameters: int
) -> None:
    with torch.device("meta"):
        pipeline = import_module("engine_models").BUILDERS[architecture]()
    assert sum(parameter.numel() for parameter in getattr(pipeline, component).parameters()) == num_parameters


def test_a_tiny_model_is_measured_from_end_to_end(bench: ModuleType, tmp_path: Path) -> None:
    folder = make_tiny_sd(tmp_path / "sd")
    report = tmp_path / "reports" / "tiny.json"
    options = ["--model", "sd15", "--dir", str(folder), "--device", "cpu", "--threads", "1", "--json", str(report)]
    few = ["--quick", "--requests", "3", "--sizes", "32", "64", "--engine", "measure_budget_s=0.1"]
    assert bench.main([*options, *few]) == 0
    found = json.loads(report.read_text())
    assert found["figures"]["pictures"]["compared"] == 3
    assert found["figures"]["burst"]["ours per s"] > 0
    assert set(found["figures"]) == {"burst", "loop", "pictures", "load 0.9", "LoRAs", "first step"}
    assert found["aims"].keys() == set(bench.verdicts(found["figures"], bench.aims_for("sd15", torch.device("cpu"))))
    assert "| burst | ours / A |" in report.with_suffix(".md").read_text()
    with Image.open(report.with_suffix(".png")) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(maxcolors=2**20)}
    assert (0xE4, 0x57, 0x2E) in colours
