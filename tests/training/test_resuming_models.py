"""That a training goes on to the bit, on true models of every family that can be trained."""

from itertools import count

import pytest
import torch

from tests.training.tiny_learning import make_pictures, tiny_learner, tiny_recipe
from tests.training.toy import toy_file
from training.caching import build_cache
from training.checkpoints import tensors_sha256
from training.trainer import Trainer

STEPS = 3
LORA = {
    "sd": {"rank": 4, "text_encoder": True, "dropout": 0.1, "targets": ["attention", "feed_forward", "convolutions"]},
    "sdxl": {"rank": 4, "dora": True},
    "flux": {"rank": 4, "dropout": 0.1},
}


class Stop(Exception):
    """Thrown where a run is to break off."""


def recipe_of(family):
    return tiny_recipe(
        lora=LORA[family],
        loss={"timesteps": "logit_normal" if family == "flux" else "uniform", "noise_offset": 0.05},
        optimizer={"learning_rate": 0.01, "warmup_steps": 1},
        loop={"batch_size": 2, "accumulate": 2, "ema_decay": 0.9, "gradient_checkpointing": family == "sdxl"},
        validation={"every_steps": 2, "num_draws": 2},
        captions={"drop_rate": 0.3},
    )


def trained(folder, family, base, data, *, until=None):
    """A learner made anew, as another process would; breaks off at the until-th forward of a step."""
    recipe = recipe_of(family)
    learner = tiny_learner(base, family, recipe)
    pictures = make_pictures(data, [(80, 64), (64, 64), (64, 80), (80, 64)], num_held_out=1)
    cache = build_cache(learner, data, pictures, recipe, tell=lambda news: None)
    forwards, losses = count(), learner.losses

    def losses_until(batch, draws):
        if next(forwards) == until:
            raise Stop
        return losses(batch, draws)

    learner.losses = losses_until
    trainer = Trainer(
        learner, cache, recipe, steps=STEPS, seed=3, file=toy_file(folder), checkpoint_s=0.0, tell=lambda news: None
    )
    outcome = trainer.run()
    return tensors_sha256(learner.state()), outcome.loss, outcome.validation_loss, outcome.best_step


@pytest.mark.parametrize(("family", "places"), [("sd", [1, 2, 4]), ("sdxl", [3]), ("flux", [3])])
def test_broken_off_anywhere_it_ends_with_the_same_bits(tmp_path, tiny_folders, family, places):
    torch.use_deterministic_algorithms(True)
    try:
        (tmp_path / "whole").mkdir()
        wanted = trained(tmp_path / "whole", family, tiny_folders[family], tmp_path / "data")
        for place in places:
            folder = tmp_path / str(place)
            folder.mkdir()
            with pytest.raises(Stop):
                trained(folder, family, tiny_folders[family], folder / "first", until=place)
            assert trained(folder, family, tiny_folders[family], folder / "second") == wanted
    finally:
        torch.use_deterministic_algorithms(False)
    assert wanted[2][-1][1] != wanted[2][0][1], "it learned something"
