"""A checkpoint is whole or not there, is the same bytes for the same training, and belongs to one training alone."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from pipelines.work import WorkRefused
from tests.training.toy import IDENTITY, toy_file
from training.checkpoints import Checkpoint, Standing, tensors_sha256

TENSORS = {
    "weights/a": torch.arange(6.0).reshape(2, 3),
    "optimizer/a/step": torch.tensor(3.0),
    "best/a": torch.tensor([1, 2], dtype=torch.bfloat16),
    "loss": torch.tensor(0.1),
}
STANDING = Standing(
    step=7,
    loss=[(5, 0.1 + 0.2)],
    validation_loss=[(0, 1.0), (5, 1 / 3), (7, 0.5)],
    best_step=5,
    num_worse=1,
    spent_s=1.5,
)


@pytest.fixture
def file(tmp_path):
    file = toy_file(tmp_path)
    file.save(Checkpoint(STANDING, TENSORS))
    return file


def test_what_was_saved_is_loaded_to_the_bit(file):
    loaded = file.load()
    assert loaded.standing == STANDING
    assert loaded.tensors.keys() == TENSORS.keys()
    assert tensors_sha256(loaded.tensors) == tensors_sha256(TENSORS)
    assert loaded.part("weights").keys() == {"a"}
    assert loaded.part("optimizer").keys() == {"a/step"}


def test_the_best_loss_is_not_the_base_models():
    assert Standing(validation_loss=[(0, 0.1), (5, 0.4), (10, 0.3)]).best_loss == 0.3
    assert Standing(validation_loss=[(0, 0.1)]).best_loss == float("inf")


def test_the_same_is_the_same_bytes(file, tmp_path):
    first = file.path.read_bytes()
    file.save(Checkpoint(STANDING, dict(reversed(TENSORS.items()))))
    assert file.path.read_bytes() == first


def test_without_a_file_there_is_nothing_to_go_on_with(tmp_path):
    assert toy_file(tmp_path).load() is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"recipe_sha256": "x"}, "another recipe"),
        ({"data_sha256": "x"}, "other data"),
        ({"base_sha256": "x"}, "another base model"),
        ({"recipe_sha256": "x", "base_sha256": "x"}, "another recipe and another base model"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_and_what_differs_is_named(file, changes, named):
    with pytest.raises(WorkRefused, match=f"made with {named}[.]$") as refusal:
        replace(file, identity=replace(IDENTITY, **changes)).load()
    assert refusal.value.code == "resume_refused"


def flipped(data: bytes) -> bytes:
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


def other_format(data: bytes) -> bytes:
    return data.replace(b'\\"format\\": 1', b'\\"format\\": 9')


@pytest.mark.parametrize(
    "damage", [flipped, other_format, lambda data: data[:-1], lambda data: data[:20], lambda data: b""]
)
def test_a_damaged_one_counts_as_none(file, damage):
    data = file.path.read_bytes()
    assert damage(data) != data
    file.path.write_bytes(damage(data))
    assert file.load() is None


def test_one_of_another_machine_is_gone_on_with(file):
    elsewhere = replace(file.environment, num_threads=99)
    assert replace(file, environment=elsewhere).load().standing == STANDING


def test_a_reader_sees_a_whole_file_at_every_instant_of_saving(file, monkeypatch):
    steps_seen = []

    def look() -> None:
        with safe_open(file.path, framework="pt") as opened:
            opened.get_tensor("loss")
        steps_seen.append(toy_file(file.path.parent).load().standing.step)

    sync, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (look(), sync(descriptor), look()))
    monkeypatch.setattr(Path, "replace", lambda path, target: (look(), rename(path, target), look()))
    file.save(Checkpoint(replace(STANDING, step=8), TENSORS))
    assert steps_seen == [7, 7, 7, 8, 8, 8]
    assert [path.name for path in file.path.parent.iterdir()] == [file.path.name]
