"""Trainer: the loop. Learns, validates, keeps the best, saves; goes on from a checkpoint as if nothing had happened.

Knows no model and no picture. Within a step nothing waits for the device: losses are summed up where they are.
B samples of a micro-batch.
"""

import math
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.work import Tell, WorkRefused
from training.checkpoints import Checkpoint, CheckpointFile, Curve, Standing
from training.data_order import DataOrder, Samples
from training.ema import Ema
from training.learners.base import Batch, Draws, Learner
from training.optimizers import build_optimizer, load_optimizer_state, optimizer_state, set_rate
from training.randomness import generator, seed_libraries
from training.recipe import Recipe
from training.schedules import rate_factor
from training.validation import Validator

LOG_EVERY = 10  # steps
TELL_EVERY_S = 1.0
MAX_POINTS = 500  # of a curve that is shown

OnInterval = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A training that came to its end; the learner holds the best weights."""

    loss: Curve
    validation_loss: Curve  # begins with the base model's, at 0
    best_step: int
    loss_before: float
    loss_after: float  # of the best weights
    spent_s: float
    num_steps: int  # fewer than wanted where it stopped early


class Trainer:
    """One training. `on_interval` may make pictures: the learner is off train_mode then, and has its averages on."""

    def __init__(
        self,
        learner: Learner,
        samples: Samples,
        recipe: Recipe,
        *,
        steps: int,
        seed: int,
        file: CheckpointFile,
        checkpoint_s: float,
        tell: Tell,
        on_interval: OnInterval = lambda step: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        loop, validation = recipe.loop, recipe.validation
        self._learner, self._samples, self._recipe = learner, samples, recipe
        self._steps, self._seed = steps, seed
        self._file, self._checkpoint_s = file, checkpoint_s
        self._tell, self._on_interval, self._clock = tell, on_interval, clock
        self._order = DataOrder(
            samples.samples,
            batch_size=loop.batch_size,
            accumulate=loop.accumulate,
            drop_rate=recipe.captions.drop_rate,
            seed=seed,
        )
        self._validator = Validator(
            learner, samples, num_draws=validation.num_draws, batch_size=loop.batch_size, seed=seed
        )
        self._parameters = list(learner.trainable().values())
        self._optimizer = build_optimizer(recipe.optimizer, learner.parameter_groups())
        self._ema = Ema(learner.trainable(), loop.ema_decay) if loop.ema_decay is not None else None
        self._standing = Standing()
        self._best: dict[str, Tensor] = {}
        self._loss = torch.zeros((), device=learner.device)  # sum since the last point of the curve

    def run(self) -> Outcome:
        """To the end, from where the checkpoint is. WorkRefused: "resume_refused" or "not_finite"."""
        self._resume()
        standing = self._standing
        self._started_s = self._saved_s = self._told_s = self._clock()
        self._started_step, self._spent_before_s = standing.step, standing.spent_s
        if not standing.validation_loss:
            standing.validation_loss.append((0, self.validation_loss(with_adapter=False)))
        self._learner.train_mode(True)
        while standing.step < self._steps and standing.num_worse < self._recipe.validation.patience:
            self.learn(standing.step)
            standing.step += 1
            self._look_up()
        self._learner.train_mode(False)
        self._learner.load_state(self._best)
        return Outcome(
            loss=thinned(standing.loss),
            validation_loss=standing.validation_loss,
            best_step=standing.best_step,
            loss_before=standing.validation_loss[0][1],
            loss_after=standing.best_loss,
            spent_s=standing.spent_s,
            num_steps=standing.step,
        )

    def learn(self, step: int) -> None:
        """One step. All its chance comes from the seed and its number."""
        part = self._recipe.optimizer
        set_rate(self._optimizer, rate_factor(part, step=step, steps=self._steps))
        self._optimizer.zero_grad(set_to_none=True)
        for number, micro in enumerate(self._order.micro_batches(step)):
            batch = self._samples.batch(micro.ids, without_words=micro.without_words)
            draws = draw(batch, generator(self._seed, "step", step, number), self._learner.device)
            seed_libraries(self._seed, "dropout", step, number)
            losses_B = self._learner.losses(batch, draws) * batch.weight_B
            loss = losses_B.mean() / self._recipe.loop.accumulate
            loss.backward()
            self._loss += loss.detach()
        nn.utils.clip_grad_norm_(self._parameters, part.max_grad_norm, foreach=True)
        self._optimizer.step()
        if self._ema is not None:
            self._ema.update(step)

    def validation_loss(self, *, with_adapter: bool = True) -> float:
        """Of the weights that the learner has now, or of the base model."""
        return self._validator.loss(with_adapter=with_adapter)

    def _look_up(self) -> None:
        """What is due between two steps. When the clock says so, only what is told and saved depends on it."""
        step, recipe = self._standing.step, self._recipe
        if step % LOG_EVERY == 0 or step == self._steps:
            self._standing.loss.append((step, self._mean_loss()))
            self._loss.zero_()
        is_validated = step % recipe.validation.every_steps == 0 or step == self._steps
        if is_validated:
            self._validate()
        if step % recipe.samples.every_steps == 0 and step < self._steps:
            with self._shown():
                self._on_interval(step)
        if is_validated or self._clock() - self._saved_s >= self._checkpoint_s:
            self._save()
        if self._clock() - self._told_s >= TELL_EVERY_S or step == self._steps:
            self._tell_progress()

    def _validate(self) -> None:
        standing = self._standing
        with self._shown():
            loss = _finite(self.validation_loss(), standing.step)
            if loss < standing.best_loss:
                self._best = self._learner.state()
                standing.best_step, standing.num_worse = standing.step, 0
            else:
                standing.num_worse += 1
        standing.validation_loss.append((standing.step, loss))

    @contextmanager
    def _shown(self) -> Generator[None, None, None]:
        """Inside, the learner is as it would be published now."""
        self._learner.train_mode(False)
        try:
            if self._ema is None:
                yield
            else:
                with self._ema.in_place():
                    yield
        finally:
            self._learner.train_mode(True)

    def _mean_loss(self) -> float:
        """Since the last point of the curve; that point where nothing came since. Waits for the device."""
        last_step, last_loss = self._standing.loss[-1] if self._standing.loss else (0, 0.0)
        num_steps = self._standing.step - last_step
        return _finite(self._loss.item() / num_steps, self._standing.step) if num_steps else last_loss

    def _tell_progress(self) -> None:
        now_s, step = self._clock(), self._standing.step
        s_per_step = (now_s - self._started_s) / (step - self._started_step)
        eta_s = round((self._steps - step) * s_per_step, 1)
        news = {"stage": "train", "step": step, "steps": self._steps, "loss": self._mean_loss(), "eta_s": eta_s}
        self._tell(news)
        self._told_s = now_s

    def _save(self) -> None:
        self._mean_loss()  # refuses to save what is no number any more
        self._standing.spent_s = self._spent_before_s + self._clock() - self._started_s
        parts: dict[str, dict[str, Tensor]] = {
            "weights": self._learner.state(),
            "optimizer": optimizer_state(self._optimizer, self._learner.trainable()),
            "ema": self._ema.state() if self._ema is not None else {},
            "best": self._best,
        }
        tensors = {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        self._file.save(Checkpoint(self._standing, tensors | {"loss": self._loss}))
        self._tell({"checkpoint": self._file.path.name, "step": self._standing.step})
        self._saved_s = self._clock()

    def _resume(self) -> None:
        checkpoint = self._file.load()
        if checkpoint is None:
            return
        self._standing, self._best = checkpoint.standing, checkpoint.part("best")
        self._loss.copy_(checkpoint.tensors["loss"])
        self._learner.load_state(checkpoint.part("weights"))
        load_optimizer_state(self._optimizer, self._learner.trainable(), checkpoint.part("optimizer"))
        if self._ema is not None:
            self._ema.load_state(checkpoint.part("ema"))


def draw(batch: Batch, chance: torch.Generator, device: torch.device) -> Draws:
    """The chance in one micro-batch: the same on every device, and on its way there while the step begins."""
    shape = batch.latents.mean_BCHW.shape
    is_pinned = device.type == "cuda"
    normal, uniform = torch.randn, torch.rand
    parts: list[Any] = [
        make(size, generator=chance, pin_memory=is_pinned).to(device, non_blocking=True)
        for make, size in (
            (normal, shape),
            (normal, shape),
            (uniform, shape[:1]),
            (normal, (*shape[:2], 1, 1)),
        )
    ]
    return Draws(*parts)


def thinned(curve: Curve) -> Curve:
    """At most MAX_POINTS of it, each the mean of those before it."""
    stride = math.ceil(len(curve) / MAX_POINTS)
    parts = [curve[start : start + stride] for start in range(0, len(curve), stride)] if curve else []
    return [(part[-1][0], fmean(loss for _, loss in part)) for part in parts]


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        message = f"The loss was no longer a number by step {step}; a smaller learning rate may help."
        raise WorkRefused("not_finite", message)
    return loss
