"""The loop: it ends with the same bits however it is killed, keeps its best weights, and says what it does."""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from pipelines.work import WorkRefused
from tests.training.toy import IDENTITY, ToyLearner, ToySamples, toy_file, toy_recipe, toy_trainer
from training.checkpoints import tensors_sha256
from training.trainer import thinned

ROOT = Path(__file__).parents[2]


class Stop(Exception):
    """Thrown where a run is to break off."""


@pytest.fixture(autouse=True)
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def trained(folder, recipe=None, *, until=None, **options):
    """The weights' digest and the outcome without its times; breaks off at the until-th forward."""
    forwards = count()

    def snag():
        if next(forwards) == until:
            raise Stop

    recipe = recipe or toy_recipe()
    learner = ToyLearner(dropout=recipe.lora.dropout, snag=snag)
    outcome = toy_trainer(folder, recipe, learner=learner, **options).run()
    return tensors_sha256(learner.state()), replace(outcome, spent_s=0.0)


def folder_of(tmp_path, name):
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_killed_at_any_place_of_any_step_and_of_any_save_it_ends_with_the_same_bits(tmp_path):
    command = [sys.executable, "-m", "tests.training.killed_runs", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    assert int(done.stdout) == 12 * 2 + 3 * 4  # steps of two micro-batches, saves of four places


@pytest.mark.parametrize(
    "changes",
    [
        {"loop": {"accumulate": 1, "ema_decay": None}, "lora": {"dropout": 0.0}},
        {"validation": {"every_steps": 1, "patience": 2}},
        {"optimizer": {"schedule": "constant", "warmup_steps": 0, "max_grad_norm": 1e-3}},
    ],
    ids=["plain", "stops early", "clipped"],
)
def test_broken_off_again_and_again_it_ends_with_the_same_bits(tmp_path, changes):
    recipe = toy_recipe(**changes)
    wanted = trained(folder_of(tmp_path, "whole"), recipe)
    folder = folder_of(tmp_path, "broken")
    for _ in range(50):
        try:
            # Three forwards are at least one step, which is saved at once.
            found = trained(folder, recipe, until=3, checkpoint_s=0.0)
            break
        except Stop:
            continue
    assert found == wanted


def test_when_it_is_saved_changes_nothing(tmp_path):
    clock = count()
    often = trained(folder_of(tmp_path, "often"), checkpoint_s=0.0)
    sometimes = trained(folder_of(tmp_path, "sometimes"), checkpoint_s=7.0, clock=lambda: float(next(clock)))
    assert often == sometimes == trained(folder_of(tmp_path, "seldom"))


def test_another_seed_ends_elsewhere(tmp_path):
    first, second = (trained(folder_of(tmp_path, str(seed)), seed=seed) for seed in (1, 2))
    assert first != second


def test_it_learns_and_what_it_returns_is_what_it_holds(tmp_path):
    learner = ToyLearner()
    recipe = toy_recipe(loop={"accumulate": 1}, lora={"dropout": 0.0}, validation={"every_steps": 20})
    outcome = toy_trainer(tmp_path, recipe, learner=learner, steps=120).run()
    assert outcome.loss_after < 0.8 * outcome.loss_before
    assert outcome.validation_loss[0] == (0, outcome.loss_before)
    assert dict(outcome.validation_loss)[outcome.best_step] == outcome.loss_after
    best = toy_file(tmp_path).load().part("best")
    assert tensors_sha256(best) == tensors_sha256(learner.state())


def test_it_stops_when_the_loss_turns_and_keeps_the_best(tmp_path):
    recipe = toy_recipe(
        optimizer={"learning_rate": 0.3, "schedule": "constant"},
        loop={"ema_decay": None},
        validation={"every_steps": 2, "patience": 3},
    )
    outcome = toy_trainer(tmp_path, recipe, steps=400).run()
    losses = dict(outcome.validation_loss[1:])
    assert outcome.num_steps < 400
    assert outcome.best_step == min(losses, key=losses.get) == outcome.num_steps - 3 * 2


def test_a_training_that_is_done_is_not_done_again(tmp_path):
    wanted = trained(tmp_path)
    assert trained(tmp_path, until=0) == wanted


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    trained(tmp_path)
    with pytest.raises(WorkRefused, match="other data"):
        trained(tmp_path, file=toy_file(tmp_path, replace(IDENTITY, data_sha256="x")))


def test_a_damaged_checkpoint_is_begun_anew_and_ends_the_same(tmp_path):
    wanted = trained(tmp_path)
    path = toy_file(tmp_path).path
    path.write_bytes(path.read_bytes()[:-1])
    assert trained(tmp_path) == wanted


def test_a_loss_that_is_no_number_ends_it_with_a_reason_and_is_not_saved(tmp_path):
    class Breaking(ToyLearner):
        def losses(self, batch, draws):
            self.snag()
            return super().losses(batch, draws) / (0.0 if next(steps) == 7 else 1.0)

    steps = count()
    recipe = toy_recipe(loop={"accumulate": 1})
    with pytest.raises(WorkRefused, match="no longer a number by step 8") as refusal:
        toy_trainer(tmp_path, recipe, learner=Breaking(), checkpoint_s=0.0).run()
    assert refusal.value.code == "not_finite"
    assert toy_file(tmp_path).load().standing.step == 7


def test_it_tells_how_far_it_is_and_when_a_checkpoint_lies_there(tmp_path):
    news, clock = [], count()
    toy_trainer(tmp_path, toy_recipe(), tell=news.append, clock=lambda: float(next(clock))).run()
    steps = [one for one in news if one.get("stage") == "train"]
    assert [one["step"] for one in steps] == list(range(1, 13))
    assert all(one["steps"] == 12 and one["loss"] > 0 and one["eta_s"] >= 0 for one in steps)
    assert [one["step"] for one in news if "checkpoint" in one] == [5, 10, 12]


def test_it_tells_no_more_than_once_a_second_and_always_of_the_end(tmp_path):
    news = []
    toy_trainer(tmp_path, toy_recipe(), tell=news.append, clock=lambda: 0.0).run()
    assert [one["step"] for one in news if one.get("stage") == "train"] == [12]


def test_at_intervals_the_learner_shows_its_averages_without_dropout(tmp_path):
    shown = []
    learner = ToyLearner(dropout=0.2)

    def look(step):
        shown.append((step, learner.is_training, tensors_sha256(learner.state())))

    toy_trainer(tmp_path, toy_recipe(), learner=learner, on_interval=look, checkpoint_s=0.0, steps=9).run()
    own = []
    learner = ToyLearner(dropout=0.2)
    learner.snag = lambda: own.append(tensors_sha256(learner.state()))
    plain = folder_of(tmp_path, "plain")
    toy_trainer(plain, toy_recipe(loop={"ema_decay": None}), learner=learner, steps=9).run()
    assert [(step, is_training) for step, is_training, _ in shown] == [(7, False)]
    assert shown[0][2] != own[2 * 7]


def test_prior_samples_count_as_much_as_the_recipe_says(tmp_path):
    class Weightless(ToySamples):
        def batch(self, ids, *, without_words):
            batch = super().batch(ids, without_words=without_words)
            return replace(batch, weight_B=torch.zeros(len(ids)) if self.samples[ids[0]].is_prior else batch.weight_B)

    learners = [ToyLearner(), ToyLearner()]
    recipe = toy_recipe(lora={"dropout": 0.0})
    for learner, samples in zip(learners, (ToySamples(), Weightless()), strict=True):
        trainer = toy_trainer(folder_of(tmp_path, type(samples).__name__), recipe, learner=learner)
        trainer._samples = samples
        trainer.run()
    assert tensors_sha256(learners[0].state()) != tensors_sha256(learners[1].state())


def test_a_curve_is_thinned_to_means_and_keeps_its_end():
    curve = [(10 * i, float(i)) for i in range(1, 1_203)]
    thin = thinned(curve)
    assert len(thin) == 401
    assert thin[0] == (30, 2.0)
    assert thin[-1] == (12_020, 1_201.5)
    assert thinned(curve[:500]) == curve[:500]
    assert thinned([]) == []
