"""Whole trainings of the model that ships with the project, small and short, and the works that they are ordered by."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from configs.settings import PROJECT_DIR
from models.catalog import load_catalog
from pipelines.sandbox import Bounds, run_apart
from pipelines.work import WorkRefused
from tests.training.stills import film, prepare_order
from tests.training.toy import CPU
from training.checkpoints import Checkpoint, CheckpointFile, Environment, Identity, Standing
from training.orders import (
    ADAPTER,
    CHECKPOINT,
    LOSS_DATA,
    LOSS_PLOT,
    OUT,
    PREVIEWS,
    TRAIN_WORK,
    BaseModel,
    MeasureOrder,
)
from training.orders import TrainOrder as Order
from training.prepare import prepare
from training.recipe import load_recipe
from training.work import measure, train

STEPS = 5
BOUNDS = Bounds(wall_s=200, memory_bytes=None, file_bytes=None, max_open_files=1_024)
CHANGES = {
    "pictures": {"resolution_px": 64},
    "lora": {"rank": 2, "targets": ["attention"]},
    "loop": {"batch_size": 2, "steps": STEPS, "ema_decay": 0.9},
    "validation": {"every_steps": 3, "num_draws": 2},
    "samples": {"num_shown": 1, "num_compared": 2, "every_steps": 2},
}


class Kill(Exception):
    """Thrown into whoever listens to a child: it is killed then, with SIGKILL."""


@pytest.fixture(autouse=True)
def settled():
    """The works set up the process that they run in."""
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def spec():
    """As in the catalogue, but its pictures are small and hasty."""
    spec = load_catalog()["emoji-3d"]
    hasty = spec.defaults.model_copy(update={"width_px": 64, "height_px": 64, "num_inference_steps": 2})
    return spec.model_copy(update={"defaults": hasty})


@pytest.fixture
def recipe(spec):
    return load_recipe("subject", spec, CHANGES)


@pytest.fixture
def base(spec):
    folder = PROJECT_DIR / spec.source.path
    return BaseModel(spec.model_dump(mode="json"), str(folder), "base-hash", "cpu")


@pytest.fixture
def order(tmp_path, recipe, base):
    """A function: the order for a folder of that name, where the dataset is there already."""

    def make(name: str, **changes) -> dict:
        folder = tmp_path / name
        if not folder.exists():
            prepare(prepare_order(folder, film(folder, 5), recipe).to_dict(), lambda news: None)
        terms = {"folder": str(folder), "job_id": "job_1", "name": "signer", "created_at": 1_700_000_000}
        terms |= {"recipe_json": recipe.to_json(), "trigger": "sks person", "steps": STEPS, "seed": 4, "base": base}
        return Order(**{**terms, "checkpoint_s": 1e-9, "num_threads": 1, **changes}).to_dict()

    return make


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_killed_in_its_own_process_it_goes_on_in_another_and_publishes_the_same_bytes(order):
    news = []
    whole = train(order("whole"), news.append)

    def kill(told):
        if told.get("checkpoint") and told["step"] == 4:
            raise Kill

    with pytest.raises(Kill):
        await run_apart(TRAIN_WORK, order("killed"), bounds=BOUNDS, on_news=kill)
    rest = []
    resumed = train(order("killed"), rest.append)
    assert [told["step"] for told in rest if told.get("stage") == "train"] == [5]
    folders = [Path(order(name)["folder"]) for name in ("whole", "killed")]
    first, second = (files_of(folder / OUT) for folder in folders)
    assert first.keys() == {ADAPTER, LOSS_PLOT, LOSS_DATA, "samples/before-00.png", "samples/after-00.png"}
    assert first == second
    assert files_of(folders[0] / PREVIEWS) == files_of(folders[1] / PREVIEWS)
    timed = {"device_s", "peak_bytes", "s_per_step"}
    assert {name: value for name, value in whole.items() if name not in timed} == {
        name: value for name, value in resumed.items() if name not in timed
    }
    stages = [told["stage"] for told in news if "stage" in told]
    assert list(dict.fromkeys(stages)) == ["cache", "train", "validate", "publish"]
    assert [(told["preview"], told["step"]) for told in news if "preview" in told] == [
        ("000002.png", 2),
        ("000004.png", 4),
    ]
    assert whole["quality"]["validation_loss_after"] < whole["quality"]["validation_loss_before"]
    assert whole["device_s"] > 0
    assert json.loads(json.dumps(whole, allow_nan=False))["validation_loss"][0][0] == 0
    with Image.open(folders[0] / OUT / whole["samples"][0]["file"]) as picture:
        assert picture.size == (64, 64)


def test_a_checkpoint_of_another_order_is_refused_in_words(order):
    folder = Path(order("refused")["folder"])
    file = CheckpointFile(folder / CHECKPOINT, Identity("x", "x", "x"), Environment.here(CPU))
    file.save(Checkpoint(Standing(), {"loss": torch.zeros(())}))
    with pytest.raises(WorkRefused, match="made with another recipe, other data and another base model") as refusal:
        train(order("refused"), lambda news: None)
    assert refusal.value.code == "resume_refused"


def test_a_folder_without_a_dataset_is_refused(order, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(WorkRefused) as refusal:
        train(order("empty"), lambda news: None)
    assert refusal.value.code == "bad_dataset"


def test_a_recipe_that_does_not_fit_here_is_refused(order, spec):
    recipe = load_recipe("subject", spec, {**CHANGES, "optimizer": {"name": "prodigy"}})
    with pytest.raises(WorkRefused, match="prodigyopt") as refusal:
        train(order("prodigy", recipe_json=recipe.to_json()), lambda news: None)
    assert refusal.value.code == "bad_recipe"


def test_a_few_steps_on_noise_say_what_a_training_takes(tmp_path, recipe, base):
    measured = measure(MeasureOrder(str(tmp_path), recipe.to_json(), base, 1).to_dict(), lambda news: None)
    assert measured.keys() == {"start_s", "s_per_picture", "s_per_step", "end_s", "peak_bytes"}
    assert all(value > 0 for value in measured.values())
