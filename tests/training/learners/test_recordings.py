"""Recorded steps are the steps that they record. CUDA graphs are played on the CPU here; tests/gpu has real ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.spec import Family
from tests.training.tiny_learning import make_batch, shake, tiny_learner, tiny_recipe
from training.learners.adapted import AdaptedLearner
from training.learners.recordings import Recordings

FREE_BYTES = 1_000_000


class Graph:
    """As a CUDA graph: the same operations again, reading and writing the memory that they were recorded with."""

    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def replay(self) -> None:
        for function, args, kwargs, output in self.operations:
            places = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if is_tensor(leaf)}
            for old, new in zip(tree_leaves(output), tree_leaves(function(*args, **kwargs)), strict=True):
                if is_tensor(old) and old.untyped_storage().data_ptr() not in places:
                    old.copy_(new)


class Recorder(TorchDispatchMode):
    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._graph = graph

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        self._graph.operations.append((function, args, kwargs or {}, output))
        return output


def is_tensor(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor)


@contextmanager
def graph(recorded: Graph, *, pool: object) -> Iterator[None]:
    assert pool == (0, 0)
    with Recorder(recorded):
        yield


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What a step has taken at most."""
    taken = {"bytes": 0}
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (FREE_BYTES, FREE_BYTES))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 0)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: taken["bytes"])
    return taken


def recording_learner(folder: Path, family: Family, **parts: Any) -> AdaptedLearner:
    learner = tiny_learner(folder, family, tiny_recipe(**parts))
    learner._recordings = Recordings(list(learner.trainable().values()))
    return learner


def gradients(learner: AdaptedLearner, *seeds: int, num_texts: int = 2) -> dict[str, torch.Tensor]:
    learner.train_mode(True)
    for seed in seeds:
        batch, draws = make_batch(learner, ["red car", "", "car"][:num_texts], seed=seed)
        (learner.losses(batch, draws) * torch.linspace(1, 2, num_texts)).mean().backward()
    found = {name: value.grad for name, value in learner.trainable().items()}
    for value in learner.trainable().values():
        value.grad = None
    return found


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux"])
@pytest.mark.parametrize("lora", [{"text_encoder": True}, {"dora": True}], ids=str)
def test_recorded_steps_have_the_gradients_of_steps_that_are_not(
    tiny_folders: dict[Family, Path], family: Family, lora: dict[str, bool]
) -> None:
    recording = recording_learner(tiny_folders[family], family, lora=lora)
    plain = tiny_learner(tiny_folders[family], family, tiny_recipe(lora=lora))
    for seed in range(3):
        for num_texts in (2, 3):  # sizes take turns
            # One step, and two whose gradients are added up.
            for seeds in ((seed,), (seed + 7, seed + 8)):
                found = gradients(recording, *seeds, num_texts=num_texts)
                torch.testing.assert_close(found, gradients(plain, *seeds, num_texts=num_texts), rtol=0, atol=0)
        for learner in (recording, plain):
            shake(learner, seed=seed)
    assert len(recording._recordings._learned) == 2


def test_recorded_validations_are_of_the_adapter_that_is_there_and_of_none(
    tiny_folders: dict[Family, Path],
) -> None:
    recording = recording_learner(tiny_folders["sd"], "sd")
    plain = tiny_learner(tiny_folders["sd"], "sd")
    for seed in range(4):
        for with_adapter in (True, False):
            losses = [
                learner.plain_losses(*make_batch(learner, seed=seed), with_adapter=with_adapter)
                for learner in (recording, plain)
            ]
            assert torch.equal(*losses)
        for learner in (recording, plain):
            shake(learner, seed=seed)
    assert len(recording._recordings._seen) == 2


def test_a_step_is_recorded_at_its_second_time_and_only_where_memory_is_free(
    tiny_folders: dict[Family, Path], memory: dict[str, int]
) -> None:
    learner = recording_learner(tiny_folders["sd"], "sd")
    recordings = learner._recordings
    memory["bytes"] = FREE_BYTES
    for seed in range(3):
        gradients(learner, seed)
    assert not recordings._learned
    memory["bytes"] = FREE_BYTES // 4
    gradients(learner, 0)
    assert len(recordings._learned) == 1
    gradients(learner, 0, num_texts=3)
    assert len(recordings._learned) == 1


@pytest.mark.parametrize("part", [{"lora": {"dropout": 0.5}}, {"loop": {"gradient_checkpointing": True}}], ids=str)
def test_steps_that_draw_chance_on_the_way_are_not_recorded(
    tiny_folders: dict[Family, Path], part: dict[str, Any]
) -> None:
    learner = recording_learner(tiny_folders["sd"], "sd", **part)
    for seed in range(3):
        gradients(learner, seed)
    assert not learner._recordings._learned
