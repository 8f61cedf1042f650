"""Fixtures of the pipelines room: an engine for each family on tiny folders, loaded once."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from configs.settings import ModelSettings
from models.loader import LoadedModel, load_model
from models.spec import Family
from pipelines.engine import Engine
from pipelines.request import GenerationRequest
from tests.models.tiny import make_tiny_flux, make_tiny_sd, make_tiny_sdxl, tiny_spec

MAKERS = {"sd": make_tiny_sd, "sdxl": make_tiny_sdxl, "flux": make_tiny_flux}


@dataclass(frozen=True)
class Bench:
    """One tiny model: its folder, as loaded, and its engine."""

    folder: Path
    loaded: LoadedModel
    engine: Engine

    def request(self, **changes: object) -> GenerationRequest:
        is_flux = self.loaded.spec.family == "flux"
        fields: dict[str, object] = {
            "model_id": self.loaded.spec.id,
            "prompt": "a red apple",
            "negative_prompt": "" if is_flux else "blurry",
            "width_px": 64,
            "height_px": 32,
            "num_images": 1,
            "seed": 7,
            "num_inference_steps": 3,
            "guidance_scale": 4.0,
        }
        return GenerationRequest(**(fields | changes))


def make_bench(family: Family, base: Path) -> Bench:
    folder = MAKERS[family](base / family)
    spec = tiny_spec(family)
    settings = ModelSettings(dirs={spec.id: folder}, device="cpu", dtype="float32", num_threads=1)
    loaded = load_model(spec, settings, base / "state")
    return Bench(folder, loaded, Engine(loaded))


@pytest.fixture(scope="session")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, Bench]:
    base = tmp_path_factory.mktemp("benches")
    return {family: make_bench(family, base) for family in MAKERS}


@pytest.fixture(params=["sd", "sdxl", "flux"])
def bench(request: pytest.FixtureRequest, benches: dict[Family, Bench]) -> Bench:
    return benches[request.param]


@pytest.fixture
def sd(benches: dict[Family, Bench]) -> Bench:
    return benches["sd"]
