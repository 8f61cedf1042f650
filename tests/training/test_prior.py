"""Pictures of the class by the base model: made once, the same each time, kept when a training goes on."""

from pathlib import Path

from PIL import Image

from models.spec import Family
from tests.models.tiny import tiny_spec
from tests.training.adapters import learned
from tests.training.tiny_learning import load_plain, tiny_learner, tiny_recipe
from training.learners.adapted import AdaptedLearner
from training.prior import make_prior

Folders = dict[Family, Path]
RECIPE = tiny_recipe(loss={"prior_prompt": "a person", "num_prior": 6}, pictures={"resolution_px": 67})


def prior_of(pipeline: object, folder: Path, *, seed: int = 3) -> tuple[list[bytes], list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    paths = make_prior(
        pipeline, RECIPE, folder, seed=seed, spec=tiny_spec("sd"), tell=lambda done, of: told.append((done, of))
    )
    assert [path.name for path in paths] == [f"000{index}.png" for index in range(6)]
    assert sorted(folder.iterdir()) == paths
    return [path.read_bytes() for path in paths], told


def test_the_base_model_makes_them_whatever_was_learned(tiny_folders: Folders, tmp_path: Path) -> None:
    learner: AdaptedLearner = learned(tiny_folders["sd"], "sd", text_encoder=True)
    by_learner, told = prior_of(learner.pipeline, tmp_path / "a")
    by_base, _ = prior_of(tiny_learner(tiny_folders["sd"], "sd").pipeline, tmp_path / "b")
    assert by_learner == by_base
    assert len(set(by_learner)) == 6
    assert told == [(4, 6), (6, 6)]
    with Image.open(tmp_path / "a/0000.png") as picture:
        assert picture.size == (64, 64)


def test_what_is_there_stays_and_the_rest_is_as_if_never_interrupted(tiny_folders: Folders, tmp_path: Path) -> None:
    pipeline = load_plain(tiny_folders["sd"], "sd")
    whole, _ = prior_of(pipeline, tmp_path)
    for name in ("0001.png", "0002.png", "0005.png"):
        (tmp_path / name).unlink()
    (tmp_path / "0003.png").write_bytes(b"kept")
    resumed, told = prior_of(pipeline, tmp_path)
    assert resumed == [*whole[:3], b"kept", *whole[4:]]
    assert told == [(4, 6), (6, 6)]


def test_another_seed_is_other_pictures(tiny_folders: Folders, tmp_path: Path) -> None:
    pipeline = load_plain(tiny_folders["sd"], "sd")
    first, second = (prior_of(pipeline, tmp_path / str(seed), seed=seed)[0] for seed in (3, 4))
    assert not set(first) & set(second)


def test_a_recipe_without_a_prior_has_none(tiny_folders: Folders, tmp_path: Path) -> None:
    pipeline, spec = load_plain(tiny_folders["sd"], "sd"), tiny_spec("sd")
    for loss in ({"num_prior": 0, "prior_prompt": "a person"}, {"num_prior": 6}):
        recipe = tiny_recipe(loss=loss)
        assert make_prior(pipeline, recipe, tmp_path, seed=3, spec=spec, tell=lambda _done, _of: None) == []
    assert list(tmp_path.iterdir()) == []
