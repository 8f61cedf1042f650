"""The arms of the training bench, each run in a process of its own: so that memory and loading are its own, too."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import training_baseline
import training_gate
import training_ours
from diffusers.utils import logging as diffusers_logging
from engine_baselines import BenchFailed
from training_baseline import Shortcuts
from training_job import Job
from training_watch import Taken, Watch
from transformers.utils import logging as transformers_logging

from models.loader import pick_device

Train = Callable[[Job, Watch, Path], Any]
DIFFUSERS, OURS, COMPILED, GATE = "diffusers", "ours", "ours, compiled", "gate"
TIMEOUT_S = 3_600.0


def _with(**shortcuts: bool) -> Train:
    return lambda job, watch, folder: training_baseline.train(job, watch, folder, shortcuts=Shortcuts(**shortcuts))


def _compiled(job: Job, watch: Watch, folder: Path) -> Any:  # noqa: ANN401
    return training_ours.train(replace(job, compile=True), watch, folder)


LATENTS = {"keeps_latents": True}
TEXTS = {**LATENTS, "keeps_texts": True}
NO_SYNC = {**TEXTS, "reads_no_loss": True}
# From the scripts' loop to ours, one thing more at a time.
ARMS: dict[str, Train] = {
    DIFFUSERS: _with(),
    "+ latents kept": _with(**LATENTS),
    "+ texts kept": _with(**TEXTS),
    "+ no loss read": _with(**NO_SYNC),
    "+ fused AdamW": _with(**NO_SYNC, fuses_adamw=True),
    OURS: training_ours.train,
    COMPILED: _compiled,
}


def run_here(arm: str, job: Job) -> dict[str, Any]:
    """In this process: what it took, or what the gate found."""
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    if arm == GATE:
        return training_gate.check(job)
    watch = Watch(pick_device(job.device), batch_size=job.batch_size, warm_up_steps=job.warm_up_steps)
    with tempfile.TemporaryDirectory() as folder:
        ARMS[arm](job, watch, Path(folder))
        taken: Taken = watch.taken()
    return taken.to_dict()


def run_apart(arm: str, job: Job) -> dict[str, Any]:
    """The same in a process of its own; BenchFailed with its last words."""
    with tempfile.TemporaryDirectory() as folder:
        order, answer = Path(folder) / "order.json", Path(folder) / "answer.json"
        order.write_text(json.dumps({"arm": arm, "job": asdict(job)}), "utf-8")
        command = [sys.executable, str(Path(__file__).resolve()), str(order), str(answer)]
        try:
            done = subprocess.run(command, timeout=TIMEOUT_S, stderr=subprocess.PIPE, text=True, check=False)
        except subprocess.TimeoutExpired:
            raise BenchFailed(f"{arm} took more than {TIMEOUT_S:.0f} s") from None
        if done.returncode:
            raise BenchFailed(f"{arm} ended with {done.returncode}: {done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(answer.read_text("utf-8"))
        return found


def main() -> None:
    order_path, answer_path = sys.argv[1:]
    order = json.loads(Path(order_path).read_text("utf-8"))
    found = run_here(order["arm"], Job(**order["job"]))
    Path(answer_path).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main()
