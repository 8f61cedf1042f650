"""Works as a training has them, without a model: its weights are a chain of hashes. Tests run them in the sandbox.

The trigger is JSON that says how they behave, such as {"crash_at": 3}.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.sandboxed import OUT_OF_MEMORY
from pipelines.work import Tell, WorkRefused
from training.dataset import Dataset, Picture, Rejected, read_dataset, write_dataset
from training.orders import (
    ADAPTER,
    CHECKPOINT,
    DATASET,
    LOSS_DATA,
    LOSS_PLOT,
    OUT,
    PREVIEWS,
    STILLS,
    Measured,
    PrepareOrder,
    Trained,
    TrainOrder,
)
from training.recipe import Recipe
from training.stills import Still

CHECKPOINT_STEPS = 2
PREVIEW = b"a preview"


def prepare(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Takes all but the last still; of a dataset that is there, it changes the captions."""
    order = PrepareOrder.from_dict(arguments)
    _behave(order.trigger, "prepare")
    recipe, given, target = Recipe.from_json(order.recipe_json), dict(order.captions), Path(order.folder) / DATASET
    rejected: tuple[Rejected, ...] = ()
    sources: dict[str, Path] = {}
    if target.exists():
        there = read_dataset(target).pictures
    else:
        *used, last = (Still.from_dict(fields) for fields in order.stills)
        there = tuple(_picture(place, still) for place, still in enumerate(used))
        rejected = (Rejected(last.upload_id, last.time_s, last.file, last.sha256, "blurry"),)
        stills = Path(order.folder) / STILLS
        sources = {picture.file: stills / still.file for picture, still in zip(there, used, strict=True)}
    for place, stage in enumerate(("filter", "caption")):
        tell({"stage": stage, "done": place + 1, "of": 2})
    pictures = tuple(_captioned(one, given.get(one.name, order.caption)) for one in there)
    dataset = Dataset(
        job_id=order.job_id,
        trigger=order.trigger,
        caption_mode=order.caption,
        recipe=recipe.to_json(),
        recipe_sha256=recipe.sha256,
        base_model=order.base_model,
        base_sha256=order.base_sha256,
        pictures=pictures,
        rejected=rejected,
    )
    write_dataset(target, dataset, sources)
    return {}


def train(arguments: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """A step is a hash of what was before; from a checkpoint it goes on."""
    order = TrainOrder.from_dict(arguments)
    folder = Path(order.folder)
    mood, dataset, path = json.loads(order.trigger), read_dataset(folder / DATASET), folder / CHECKPOINT
    step, weights = json.loads(path.read_text()) if path.exists() else (0, dataset.pictures[0].caption)
    tell({"stage": "cache", "done": 1, "of": 1})
    tell({"began_at": step, "pid": os.getpid()})
    while step < order.steps:
        _break_down(folder, mood, step, tell)
        weights, step = hashlib.sha256(f"{weights}/{step}".encode()).hexdigest(), step + 1
        tell(
            {"stage": "train", "step": step, "steps": order.steps, "loss": 1 / step, "eta_s": float(order.steps - step)}
        )
        if step % CHECKPOINT_STEPS == 0:
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps([step, weights]))
            partial.replace(path)
            tell({"checkpoint": CHECKPOINT, "step": step})
    (folder / PREVIEWS).mkdir(exist_ok=True)
    (folder / PREVIEWS / "last.png").write_bytes(PREVIEW)
    tell({"preview": "last.png", "step": step, "prompt": "p", "seed": 1})
    tell({"stage": "validate", "done": 1, "of": 1})
    return _trained(folder / OUT, order, weights).to_dict()


def measure(arguments: dict[str, Any], _tell: Tell) -> dict[str, Any]:
    """Leaves a trace beside its folder: how often it ran can be counted."""
    with (Path(arguments["folder"]).parent / "measured").open("a") as trace:
        trace.write("once\n")
    return Measured(start_s=1.0, s_per_picture=0.5, s_per_step=0.25, end_s=2.0, peak_bytes=1_000_000).to_dict()


def measure_a_giant(_arguments: dict[str, Any], _tell: Tell) -> dict[str, Any]:
    return Measured(start_s=1.0, s_per_picture=0.5, s_per_step=0.25, end_s=2.0, peak_bytes=10**15).to_dict()


def measure_for_ever(_arguments: dict[str, Any], _tell: Tell) -> dict[str, Any]:
    time.sleep(60)
    return {}


def _behave(trigger: str, where: str) -> None:
    mood = json.loads(trigger)
    if mood.get("refuse") == where:
        raise WorkRefused("too_few_pictures", "One is not enough.")


def _break_down(folder: Path, mood: Mapping[str, Any], step: int, tell: Tell) -> None:
    if mood.get("crash_always_at") == step:
        tell({"checkpoint": CHECKPOINT, "step": step})  # which is no step forward
        os._exit(9)
    if mood.get("out_of_memory_at") == step:
        os._exit(OUT_OF_MEMORY)
    if mood.get("hang_at") == step:
        time.sleep(60)
    if step in mood.get("crash_once_at", ()) and not (mark := folder / f"crashed-{step}").exists():
        mark.touch()
        os._exit(9)


def _picture(place: int, still: Still) -> Picture:
    return Picture(
        file=f"images/{place:04d}{Path(still.file).suffix}",
        sha256=still.sha256,
        width_px=still.width_px,
        height_px=still.height_px,
        caption="",
        is_held_out=place == 0,
        upload_id=still.upload_id,
        upload_sha256=still.upload_sha256,
        kind=still.kind,
        time_s=still.time_s,
        faces=still.faces,
    )


def _captioned(picture: Picture, caption: str) -> Picture:
    return Picture(**{name: getattr(picture, name) for name in Picture.__slots__} | {"caption": caption})


def _trained(out: Path, order: TrainOrder, weights: str) -> Trained:
    out.mkdir(exist_ok=True)
    (out / ADAPTER).write_text(f"{order.name} {order.created_at} {weights}")
    (out / LOSS_PLOT).write_bytes(b"a plot")
    (out / LOSS_DATA).write_text("[]")
    (out / "before.png").write_bytes(b"a sample")
    sample = {"file": "before.png", "prompt": "p", "seed": 1, "step": 0, "width_px": 8, "height_px": 8, "sha256": "ab"}
    quality = {
        "validation_loss_before": 1.0,
        "validation_loss_after": 0.5,
        "distance_before": None,
        "distance_after": None,
        "best_step": order.steps,
        "num_held_out": 1,
    }
    return Trained(
        adapter=ADAPTER,
        sha256=hashlib.sha256((out / ADAPTER).read_bytes()).hexdigest(),
        num_bytes=(out / ADAPTER).stat().st_size,
        weights_sha256=weights,
        loss=((1, 1.0),),
        validation_loss=((0, 1.0), (order.steps, 0.5)),
        loss_plot=LOSS_PLOT,
        loss_data=LOSS_DATA,
        quality=quality,
        samples=(sample,),
        device_s=1.0,
        peak_bytes=2_000_000,
        s_per_step=0.01,
    )
