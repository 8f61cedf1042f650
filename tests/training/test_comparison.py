"""Before and after: the same seeds, with and without; nearer frames is a smaller distance."""

import hashlib
from pathlib import Path

from models.spec import Family
from tests.models.tiny import tiny_spec
from tests.training.adapters import learned
from tests.training.tiny_learning import tiny_recipe
from training.comparison import compare
from training.sampling import make_pictures, without_adapter

Folders = dict[Family, Path]
RECIPE = tiny_recipe(samples={"num_compared": 3, "num_shown": 2, "prompts": ["{trigger} red"]})
OPTIONS = {"trigger": "sks", "seed": 11, "step": 40}


def test_an_adapter_that_makes_the_frames_is_nearer_to_them_than_the_base(
    tiny_folders: Folders, tmp_path: Path
) -> None:
    pipeline, spec = learned(tiny_folders["sd"], "sd").pipeline, tiny_spec("sd")
    wishes = [("sks red", seed) for seed in (11, 12, 13)]
    with without_adapter(pipeline):
        by_base = make_pictures(pipeline, spec, wishes, width_px=64, height_px=64)
    by_adapter = make_pictures(pipeline, spec, wishes, width_px=64, height_px=64)
    nearer = compare(pipeline, spec, RECIPE, by_adapter, folder=tmp_path, **OPTIONS)
    assert nearer.distance_after < nearer.distance_before
    farther = compare(pipeline, spec, RECIPE, by_base, folder=tmp_path, **OPTIONS)
    assert farther.distance_after > farther.distance_before
    assert nearer.wishes == tuple(wishes)
    assert [picture.tobytes() for picture in nearer.pictures] == [picture.tobytes() for picture in by_adapter]


def test_samples_of_both_are_kept_with_their_step_and_seed(tiny_folders: Folders, tmp_path: Path) -> None:
    pipeline, spec = learned(tiny_folders["sd"], "sd").pipeline, tiny_spec("sd")
    frames = make_pictures(pipeline, spec, [("red", 1)], width_px=64, height_px=64)
    compared = compare(pipeline, spec, RECIPE, frames, folder=tmp_path, **OPTIONS)
    shown = [*compared.before, *compared.after]
    assert [(s.file, s.step, s.seed, s.prompt) for s in shown] == [
        ("samples/before-00.png", 0, 11, "sks red"),
        ("samples/before-01.png", 0, 12, "sks red"),
        ("samples/after-00.png", 40, 11, "sks red"),
        ("samples/after-01.png", 40, 12, "sks red"),
    ]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == sorted(s.file[8:] for s in shown)
    assert all(hashlib.sha256((tmp_path / s.file).read_bytes()).hexdigest() == s.sha256 for s in shown)
    assert len({s.sha256 for s in shown}) == 4
