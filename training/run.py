"""One training, from its dataset to its proven file: load → cache → train → compare → write → prove.

Done again after a kill, it goes on from its checkpoint and ends with the same bytes.
"""

import hashlib
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from pipelines.work import Tell
from training.adapter_file import write_adapter
from training.caching import SampleCache, build_cache
from training.checkpoints import CheckpointFile, Environment, Identity, tensors_sha256
from training.comparison import Comparison, compare
from training.dataset import data_sha256, read_dataset
from training.file_notes import AdapterFacts, DataSummary
from training.loading import load_ready, peak_bytes
from training.orders import ADAPTER, CHECKPOINT, DATASET, LOSS_DATA, LOSS_PLOT, OUT, PREVIEWS, Trained, TrainOrder
from training.plot import LossCurves, draw_loss, write_loss_data
from training.prior import make_prior
from training.proof import prove
from training.recipe import Recipe
from training.sampling import keep_picture, make_pictures, sample_wishes
from training.trainer import Outcome, Trainer

PRIOR = "prior"  # below the order's folder


def train(order: TrainOrder, tell: Tell) -> Trained:
    """All of it. Refusals come as RecipeError, DatasetError, ModelError, ProofError and WorkRefused."""
    began_s = time.perf_counter()
    training = _Training(order, tell)
    cache = training.cache()
    before_loop_s = time.perf_counter()
    outcome = training.learn(cache)
    loop_s = time.perf_counter() - before_loop_s
    tell({"stage": "validate", "done": 0, "of": 1})
    comparison = training.compare(outcome)
    tell({"stage": "publish", "done": 0, "of": 2})
    sha256 = training.write(cache, outcome)
    tell({"stage": "publish", "done": 1, "of": 2})
    training.prove(comparison)
    tell({"stage": "publish", "done": 2, "of": 2})
    # Of the loop, what earlier processes spent on it counts too.
    device_s = outcome.spent_s + time.perf_counter() - began_s - loop_s
    return training.summary(outcome, comparison, sha256=sha256, device_s=device_s)


class _Training:
    """What its parts share: the order, the data and the model."""

    def __init__(self, order: TrainOrder, tell: Tell) -> None:
        self._order, self._tell = order, tell
        self._folder, self._out = Path(order.folder), Path(order.folder) / OUT
        self._out.mkdir(exist_ok=True)
        recipe = Recipe.from_json(order.recipe_json)
        self._recipe = recipe.model_copy(update={"loop": recipe.loop.model_copy(update={"steps": order.steps})})
        self._dataset = read_dataset(self._folder / DATASET)
        self._ready = load_ready(order.base, self._recipe, seed=order.seed, num_threads=order.num_threads)
        defaults = self._ready.spec.defaults
        self._size = {"width_px": defaults.width_px, "height_px": defaults.height_px}

    def cache(self) -> SampleCache:
        """All that is learned from, encoded; pictures of the class, where the recipe wants them, are made first."""
        pictures = self._dataset.pictures
        prior = make_prior(
            self._ready.pipeline,
            self._recipe,
            self._folder / PRIOR,
            seed=self._order.seed,
            spec=self._ready.spec,
            tell=lambda done, of: self._tell({"stage": "cache", "done": done, "of": 2 * of + len(pictures)}),
        )

        def tell_cached(news: dict[str, int]) -> None:
            self._tell({"stage": "cache", "done": len(prior) + news["done"], "of": len(prior) + news["of"]})

        return build_cache(
            self._ready.learner,
            self._folder / DATASET,
            pictures,
            self._recipe,
            prior_pictures=prior,
            tell=tell_cached,
        )

    def learn(self, cache: SampleCache) -> Outcome:
        """From the checkpoint on, where there is one. The learner holds the best weights afterwards."""
        order, learner = self._order, self._ready.learner
        file = CheckpointFile(self._folder / CHECKPOINT, self._identity(), Environment.here(learner.device))
        return Trainer(
            learner,
            cache,
            self._recipe,
            steps=order.steps,
            seed=order.seed,
            file=file,
            checkpoint_s=order.checkpoint_s,
            tell=self._tell,
            on_interval=self._show,
        ).run()

    def compare(self, outcome: Outcome) -> Comparison:
        """Pictures of before and of after, beside the frames that were held out."""
        held_out = [_opened(self._folder / DATASET / one.file) for one in self._dataset.pictures if one.is_held_out]
        return compare(
            self._ready.pipeline,
            self._ready.spec,
            self._recipe,
            held_out,
            trigger=self._order.trigger,
            seed=self._order.seed,
            step=outcome.best_step,
            folder=self._out,
        )

    def write(self, cache: SampleCache, outcome: Outcome) -> str:
        """The adapter, whose SHA-256 it gives, and how the loss went."""
        curves = LossCurves(
            tuple(outcome.loss), tuple(outcome.validation_loss[1:]), outcome.loss_before, outcome.best_step
        )
        draw_loss(self._out / LOSS_PLOT, curves)
        write_loss_data(self._out / LOSS_DATA, curves)
        ready, facts = self._ready, self._facts(cache, outcome)
        return write_adapter(self._out / ADAPTER, ready.pipeline, ready.learner.state(), self._recipe, facts)

    def prove(self, comparison: Comparison) -> None:
        """ProofError where the file, in a plain pipeline, does not give the pictures that were compared."""
        ready, file = self._ready, self._out / ADAPTER
        wishes, pictures = comparison.wishes, comparison.pictures
        prove(ready.pipeline, file, ready.spec, wishes=wishes, pictures=pictures, **self._size)

    def summary(self, outcome: Outcome, comparison: Comparison, *, sha256: str, device_s: float) -> Trained:
        """What the one who ordered it is told."""
        return Trained(
            adapter=ADAPTER,
            sha256=sha256,
            num_bytes=(self._out / ADAPTER).stat().st_size,
            weights_sha256=tensors_sha256(self._ready.learner.state()),
            loss=tuple(outcome.loss),
            validation_loss=tuple(outcome.validation_loss),
            loss_plot=LOSS_PLOT,
            loss_data=LOSS_DATA,
            quality={
                "validation_loss_before": outcome.loss_before,
                "validation_loss_after": outcome.loss_after,
                "distance_before": comparison.distance_before,
                "distance_after": comparison.distance_after,
                "best_step": outcome.best_step,
                "num_held_out": self._dataset.num_held_out,
            },
            samples=tuple(asdict(shown) for shown in (*comparison.before, *comparison.after)),
            device_s=device_s,
            peak_bytes=peak_bytes(self._ready.learner.device),
            s_per_step=outcome.spent_s / outcome.num_steps,
        )

    def _identity(self) -> Identity:
        told = f"{self._recipe.sha256} {self._order.seed} {self._order.trigger}"
        recipe_sha256 = hashlib.sha256(told.encode()).hexdigest()
        return Identity(recipe_sha256, data_sha256(self._dataset), self._order.base.sha256)

    def _show(self, step: int) -> None:
        """One picture of how far it is."""
        ready, (wish,) = self._ready, sample_wishes(self._recipe, self._order.trigger, self._order.seed, 1)
        (picture,) = make_pictures(ready.pipeline, ready.spec, [wish], **self._size)
        shown = keep_picture(picture, self._folder / PREVIEWS, f"{step:06}.png", wish, step)
        self._tell({"preview": shown.file, "step": step, "prompt": shown.prompt, "seed": shown.seed})

    def _facts(self, cache: SampleCache, outcome: Outcome) -> AdapterFacts:
        order = self._order
        learned = [sample for sample in cache.samples if not sample.is_held_out]
        buckets = Counter(sample.bucket for sample in learned if not sample.is_prior)
        captions = tuple(one.caption for one in self._dataset.pictures if not one.is_held_out)
        return AdapterFacts(
            name=order.name,
            job_id=order.job_id,
            trigger=order.trigger,
            base_spec=self._ready.spec,
            base_sha256=order.base.sha256,
            created_at=order.created_at,
            steps=outcome.best_step,
            seed=order.seed,
            data=DataSummary(
                num_pictures=len(captions),
                num_prior=len({sample.picture for sample in learned if sample.is_prior}),
                buckets=tuple((*bucket, count) for bucket, count in sorted(buckets.items())),
                captions=captions,
            ),
        )


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return file.convert("RGB")
