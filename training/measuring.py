"""What a training takes here, found by a few steps on noise: an estimate before anybody waits for the real one."""

import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from pipelines.device import wait_for
from training.caching import SampleCache, build_cache
from training.checkpoints import CheckpointFile, Environment, Identity
from training.dataset import IMAGES, Picture
from training.loading import Ready, load_ready, peak_bytes
from training.orders import CHECKPOINT, Measured, MeasureOrder
from training.recipe import Recipe
from training.sampling import MAX_BATCH, batches, make_pictures, sample_wishes
from training.trainer import Trainer

NUM_STEPS = 4  # the first of which, when memory is taken and kernels are chosen, does not count
WORD = "noise"


def measure(order: MeasureOrder) -> Measured:
    """As train() would do it, with the recipe's own sizes and batches."""
    recipe = Recipe.from_json(order.recipe_json)
    ready = load_ready(order.base, recipe, seed=0, num_threads=order.num_threads)
    start_s = time.time() - psutil.Process().create_time()
    pictures = [_noise(Path(order.folder), number, recipe) for number in range(2)]
    began_s = time.perf_counter()
    cache = build_cache(ready.learner, Path(order.folder), pictures, recipe, tell=lambda news: None)
    s_per_picture = (wait_for(ready.learner.device) - began_s) / len(pictures)
    step_s, validation_s = _loop(ready, cache, recipe, Path(order.folder))
    picture_s = _picture(ready, recipe)
    samples = recipe.samples
    # A step's share of validations, of as many pictures as may be held out, and of previews.
    validation_s *= recipe.validation.max_held_out
    beside_s = validation_s / recipe.validation.every_steps + picture_s / samples.every_steps
    num_made = 2 * max(samples.num_compared, samples.num_shown) + MAX_BATCH  # before, after, and to prove the file
    return Measured(
        start_s=start_s,
        s_per_picture=s_per_picture,
        s_per_step=step_s + beside_s,
        end_s=num_made * picture_s,
        peak_bytes=peak_bytes(ready.learner.device),
    )


def _noise(folder: Path, number: int, recipe: Recipe) -> Picture:
    """A square picture, the second one held out."""
    side_px = recipe.pictures.resolution_px or 64
    pixels = np.random.default_rng(number).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
    file = f"{IMAGES}/{number:04d}.png"
    (folder / IMAGES).mkdir(exist_ok=True)
    Image.fromarray(pixels).save(folder / file)
    return Picture(file, "", side_px, side_px, WORD, bool(number), "", "", "image")


def _loop(ready: Ready, cache: SampleCache, recipe: Recipe, folder: Path) -> tuple[float, float]:
    """Seconds of a step, and of validating one picture."""
    device = ready.learner.device
    file = CheckpointFile(folder / CHECKPOINT, Identity("", "", ""), Environment.here(device))
    trainer = Trainer(
        ready.learner, cache, recipe, steps=NUM_STEPS, seed=0, file=file, checkpoint_s=1.0, tell=lambda news: None
    )
    ready.learner.train_mode(True)
    trainer.learn(0)
    began_s = wait_for(device)
    for step in range(1, NUM_STEPS):
        trainer.learn(step)
    learned_s = wait_for(device)
    ready.learner.train_mode(False)
    trainer.validation_loss()
    return (learned_s - began_s) / (NUM_STEPS - 1), wait_for(device) - learned_s


def _picture(ready: Ready, recipe: Recipe) -> float:
    """Seconds of making one, in a batch: from batches that take fewer steps than they would."""
    spec, defaults = ready.spec, ready.spec.defaults
    size = {"width_px": defaults.width_px, "height_px": defaults.height_px}
    wishes = next(iter(batches(sample_wishes(recipe, WORD, 0, MAX_BATCH), **size)))

    def took_s(num_steps: int) -> float:
        hasty = spec.model_copy(update={"defaults": defaults.model_copy(update={"num_inference_steps": num_steps})})
        began_s = time.perf_counter()
        make_pictures(ready.pipeline, hasty, wishes, **size)
        return wait_for(ready.learner.device) - began_s

    took_s(1)  # kernels are chosen
    one_s, three_s = took_s(1), took_s(3)
    return (one_s + (defaults.num_inference_steps - 1) * max(0.0, three_s - one_s) / 2) / len(wishes)
