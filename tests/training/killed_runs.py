"""Trains the toy again and again, killed at every place there is, and says whether it ends as the undisturbed one.

A process of its own, which has loaded torch once and forks: every child is really killed (SIGKILL), at no cost.
Argument: a folder. Prints how many children were killed.
"""

import os
import signal
import sys
from itertools import count
from pathlib import Path

import torch

from tests.training.toy import ToyLearner, toy_file, toy_recipe, toy_trainer
from training import checkpoints
from training.checkpoints import tensors_sha256


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train(folder: Path, *, checkpoint_s: float = 1e9, kill_at: int | None = None, what: str = "steps") -> None:
    """In this process; it dies in the kill_at-th place of its life. Where it ends, its weights' digest is written."""
    places = count()

    def snag() -> None:
        if next(places) == kill_at:
            die()

    recipe = toy_recipe()
    learner = ToyLearner(dropout=recipe.lora.dropout, snag=snag if what == "steps" else lambda: None)
    if what == "saves":
        sync = checkpoints._sync
        checkpoints._sync = lambda path: (snag(), sync(path), snag())  # around both: before and after the rename
    clock = count()
    outcome = toy_trainer(
        folder, recipe, learner=learner, checkpoint_s=checkpoint_s, clock=lambda: float(next(clock))
    ).run()
    told = [tensors_sha256(learner.state()), outcome.loss, outcome.validation_loss, outcome.best_step]
    (folder / "outcome").write_text(repr(told))


def in_child(folder: Path, **options: object) -> int:
    """The signal that ended it; 0 where it came to its end."""
    pid = os.fork()
    if pid == 0:
        train(folder, **options)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "a child failed"
    return os.WTERMSIG(status)


def ending(folder: Path) -> tuple[str, str, object]:
    """All that a training leaves: what it says, the digest of all tensors of its checkpoint, its standing."""
    checkpoint = toy_file(folder).load()
    assert checkpoint is not None
    checkpoint.standing.spent_s = 0.0
    return (folder / "outcome").read_text(), tensors_sha256(checkpoint.tensors), checkpoint.standing


def main() -> None:
    root = Path(sys.argv[1])
    torch.set_num_threads(1)
    undisturbed = root / "undisturbed"
    undisturbed.mkdir()
    assert in_child(undisturbed) == 0
    wanted, num_killed = ending(undisturbed), 0
    # Within steps, where each is saved; around the renames of checkpoints, where they are few and much is done again.
    for what, checkpoint_s in (("steps", 0.0), ("saves", 1e9)):
        for kill_at in count():
            folder = root / f"{what}-{checkpoint_s}-{kill_at}"
            folder.mkdir()
            is_killed = in_child(folder, checkpoint_s=checkpoint_s, kill_at=kill_at, what=what) == signal.SIGKILL
            num_killed += is_killed
            if is_killed:
                assert in_child(folder, checkpoint_s=checkpoint_s, what=what) == 0
            assert ending(folder) == wanted, f"killed at place {kill_at} of {what}, saved every {checkpoint_s} s"
            if not is_killed:
                break
    sys.stdout.write(f"{num_killed}\n")


if __name__ == "__main__":
    main()
