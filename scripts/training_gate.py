"""Whether both loops of the training bench are the same training: fed the same chance, they must make the same losses.

And whether what each has saved is a LoRA that plain diffusers loads, with the same tensors as the other's.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import training_baseline
import training_ours
from engine_figures import Section
from torch import Tensor
from training_job import Job, load
from training_watch import Watch

from training.data_order import DataOrder
from training.randomness import generator
from training.trainer import draw

LOSS, WEIGHTS, NUM_TENSORS = "largest difference of a loss, relative", "largest difference of a weight", "tensors"
MAX_LOSS_DIFFERENCE = 1e-3
# Of weights that AdamW has moved by up to its learning rate in each step.
MAX_WEIGHT_DIFFERENCE = 1e-4


def check(job: Job) -> Section:
    """Both loops over the same steps, in float32."""
    job = replace(job, dtype="float32", compile=False)
    with tempfile.TemporaryDirectory() as ours_folder, tempfile.TemporaryDirectory() as theirs_folder:
        ours = training_ours.Ours(job, _watch(job))
        given = _given(ours)
        path, losses = ours.run(Path(ours_folder))
        own = _loaded_by_diffusers(job, path)
        path, their_losses = training_baseline.train(job, _watch(job), Path(theirs_folder), given=given)
        theirs = _loaded_by_diffusers(job, path)
    return differences(losses, their_losses, own, theirs)


def differences(
    losses: list[float], their_losses: list[float], own: dict[str, Tensor], theirs: dict[str, Tensor]
) -> Section:
    """How far two trainings are apart; KeyError where they have not the same tensors."""
    if own.keys() != theirs.keys():
        raise KeyError(f"{min(own.keys() ^ theirs.keys())} is in one file only")
    return {
        "steps": len(losses),
        LOSS: max(abs(one - other) / abs(other) for one, other in zip(losses, their_losses, strict=True)),
        WEIGHTS: max(float((own[name] - theirs[name]).abs().max()) for name in own),
        NUM_TENSORS: len(own),
    }


def what_differs(section: Section) -> str | None:
    """Why the two are not the same training; None: they are."""
    if not section[LOSS] <= MAX_LOSS_DIFFERENCE:
        return f"with the same chance a loss differs by {section[LOSS]:.2g} of itself"
    if not section[WEIGHTS] <= MAX_WEIGHT_DIFFERENCE:
        return f"with the same chance a trained weight differs by {section[WEIGHTS]:.2g}"
    return None


def _given(ours: training_ours.Ours) -> training_baseline.Given:
    """All the chance that our training will meet, for the other one."""
    job, samples = ours.job, ours.cache.samples
    order = DataOrder(samples, batch_size=job.batch_size, accumulate=1, drop_rate=0.0, seed=job.seed)
    batches, draws = [], []
    for step in range(job.steps):
        (micro,) = order.micro_batches(step)
        batch = ours.cache.batch(micro.ids, without_words=micro.without_words)
        batches.append([samples[id].picture for id in micro.ids])
        draws.append(draw(batch, generator(job.seed, "step", step, 0), ours.loaded.device))
    return training_baseline.Given(batches, draws, ours.learner.state())


def _loaded_by_diffusers(job: Job, path: Path) -> dict[str, Tensor]:
    """The LoRA's tensors, as a plain pipeline has them once it has loaded the file."""
    pipeline = load(job).pipeline
    pipeline.load_lora_weights(str(path.parent), weight_name=path.name, local_files_only=True)
    return {
        name: parameter.detach().float().cpu()
        for name, parameter in pipeline.unet.named_parameters()
        if ".lora_" in name
    }


def _watch(job: Job) -> Watch:
    return Watch(torch.device("cpu"), batch_size=job.batch_size, warm_up_steps=0)
