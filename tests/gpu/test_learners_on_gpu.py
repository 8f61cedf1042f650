"""Learning on CUDA: recorded steps are the steps that they record, and within one nothing waits for the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from models.spec import Family
from tests.training.tiny_learning import MAKERS, load_plain, make_batch, make_pictures, shake, tiny_recipe
from training.caching import build_cache
from training.learners import build_learner
from training.learners.adapted import AdaptedLearner
from training.learners.base import Batch, Draws

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

DEVICE = torch.device("cuda")
FAMILIES: list[Family] = ["sd", "sdxl", "flux"]
# Of gradients that a GPU may add up in another order.
CLOSE = {"rtol": 1e-3, "atol": 1e-6}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, Path]:
    base = tmp_path_factory.mktemp("tiny")
    return {family: make(base / family) for family, make in MAKERS.items()}


def learner_of(
    folders: dict[Family, Path], family: Family, dtype: torch.dtype = torch.float32, **parts: Any
) -> AdaptedLearner:
    pipeline = load_plain(folders[family], family)
    return build_learner(pipeline, family, tiny_recipe(**parts), device=DEVICE, dtype=dtype, seed=0)


def batch_of(learner: AdaptedLearner, seed: int, *, num_texts: int = 2) -> tuple[Batch, Draws]:
    return make_batch(learner, ["red car", "", "car"][:num_texts], seed=seed)


def gradients(learner: AdaptedLearner, *samples: tuple[Batch, Draws]) -> dict[str, torch.Tensor]:
    """Of all of them, added up."""
    learner.train_mode(True)
    for batch, draws in samples:
        learner.losses(batch, draws).mean().backward()
    found = {name: value.grad.clone() for name, value in learner.trainable().items()}
    for value in learner.trainable().values():
        value.grad = None
    return found


@contextmanager
def nobody_waits() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text_encoder", [False, True])
def test_recorded_steps_have_the_losses_and_gradients_of_steps_that_are_not(
    folders: dict[Family, Path], family: Family, text_encoder: bool
) -> None:
    recording = learner_of(folders, family, lora={"text_encoder": text_encoder}, loop={"record": True})
    plain = learner_of(folders, family, lora={"text_encoder": text_encoder})
    for number in range(4):
        # Two sizes take turns, and what is learned changes between them.
        samples = [batch_of(recording, 10 * number + size, num_texts=size) for size in (2, 3)]
        for sample in samples:
            torch.testing.assert_close(gradients(recording, sample), gradients(plain, sample), **CLOSE)
        both = [samples[0], samples[0], samples[1]]
        torch.testing.assert_close(gradients(recording, *both), gradients(plain, *both), **CLOSE)
        for learner in (recording, plain):
            shake(learner, seed=number)
        for with_adapter in (True, False):
            for sample in samples:
                found, expected = (
                    learner.plain_losses(*sample, with_adapter=with_adapter) for learner in (recording, plain)
                )
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert recording._recordings is not None
    assert len(recording._recordings._learned) == 2
    assert len(recording._recordings._seen) == 4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("loop", [{}, {"gradient_checkpointing": True}, {"record": True}], ids=str)
def test_nothing_in_a_step_waits_for_the_device(
    folders: dict[Family, Path], tmp_path: Path, family: Family, loop: dict[str, bool]
) -> None:
    learner = learner_of(folders, family, torch.bfloat16, lora={"text_encoder": True}, loop=loop)
    pictures = make_pictures(tmp_path / "data", [(64, 64)] * 3)
    cache = build_cache(learner, tmp_path / "data", pictures, learner.recipe, tell=lambda _told: None)
    _, draws = batch_of(learner, 0)
    learner.train_mode(True)
    for number in range(5):
        if number in (0, 1):  # warming up, and recording
            batch = cache.batch([0, 2], without_words=[False, True])
            learner.losses(batch, draws).mean().backward()
            continue
        with nobody_waits():
            batch = cache.batch([number % 3, 1], without_words=[False, True])
            (learner.losses(batch, draws) * batch.weight_B).mean().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in learner.trainable().values())


def test_compiled_blocks_learn_the_same(folders: dict[Family, Path]) -> None:
    compiled = learner_of(folders, "sd", loop={"compile": True})
    plain = learner_of(folders, "sd")
    for learner in (compiled, plain):
        shake(learner)
    for number in range(3):
        sample = batch_of(plain, number)
        torch.testing.assert_close(gradients(compiled, sample), gradients(plain, sample), rtol=1e-2, atol=1e-5)
