"""prepare(): stills become a dataset: measure → filter → caption → write. Work for a process of its own.

Where a dataset is there already, its pictures stay as they are and only what is said of them is said anew.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from pipelines.request import CaptionMode
from pipelines.work import Tell, WorkRefused
from training.captions import Say, check_given, make_say
from training.dataset import (
    IMAGES,
    MANIFEST,
    Dataset,
    DatasetError,
    Picture,
    Rejected,
    data_sha256,
    hold_out,
    read_dataset,
    write_dataset,
)
from training.descriptors import Measures, make_measure
from training.filters import Bar, Candidate, best_first, why_drop
from training.orders import DATASET, STILLS, PrepareOrder
from training.orders import Stage as StageName
from training.recipe import Recipe, RecipeError
from training.stage import Dropped, Mark, Stage
from training.stills import Still

MARKS = "marks"  # below the folder: what earlier runs of the same order have done

Sources = Mapping[str, Path]  # Picture.file → the still that becomes it
# A captioner's folder and the threads that it may use → the captioner.
OpenCaptioner = Callable[[Path, int], Say]


def prepare(arguments: dict[str, Any], tell: Tell, *, open_captioner: OpenCaptioner | None = None) -> dict[str, Any]:
    """For the arguments of a PrepareOrder, what is in the dataset; tells {"stage", "done", "of"} on the way.

    A captioner comes in from outside (training.captioner): loading what it needs takes longer than all else here.
    """
    try:
        return _Preparation(PrepareOrder.from_dict(arguments), tell, open_captioner).run()
    except RecipeError as error:
        raise WorkRefused("bad_recipe", str(error)) from error
    except DatasetError as error:
        raise WorkRefused("bad_dataset", str(error)) from error


class _Preparation:
    """One order at work."""

    def __init__(self, order: PrepareOrder, tell: Tell, open_captioner: OpenCaptioner | None) -> None:
        self._order = order
        self._open_captioner = open_captioner
        self._recipe = Recipe.from_json(order.recipe_json)
        self._tell = tell
        self._stills = Path(order.folder) / STILLS
        self._target = Path(order.folder) / DATASET
        # Another order may say other things of the same pictures.
        identity = hashlib.sha256(json.dumps(order.to_dict(), sort_keys=True).encode()).hexdigest()
        self._marks = Path(order.folder) / MARKS / identity[:16]

    def run(self) -> dict[str, Any]:
        """Writes the dataset and says what is in it."""
        sources: Sources = {}
        if (self._target / MANIFEST).exists():
            there = read_dataset(self._target)
            pictures, rejected = there.pictures, there.rejected
        else:
            shutil.rmtree(self._target / IMAGES, ignore_errors=True)
            pictures, rejected, sources = self._chosen()
        dataset = Dataset(
            job_id=self._order.job_id,
            trigger=self._order.trigger,
            caption_mode=self._order.caption,
            recipe=self._recipe.to_json(),
            recipe_sha256=self._recipe.sha256,
            base_model=self._order.base_model,
            base_sha256=self._order.base_sha256,
            pictures=self._captioned(pictures, sources),
            rejected=rejected,
        )
        write_dataset(self._target, dataset, sources)
        return self._outcome(dataset)

    def _chosen(self) -> tuple[tuple[Picture, ...], tuple[Rejected, ...], Sources]:
        """What is learned from or held out, of which nothing is said yet, and what is neither."""
        candidates = self._measured()
        bar = Bar.over(candidates, self._recipe.filters, self._recipe.pictures.resolution_px or 0)

        def judge(one: Candidate) -> Dropped | None:
            if (reason := why_drop(one, bar)) is not None:
                return Dropped(reason)
            bar.keep(one)
            return None

        stage = Stage(judge)
        kept = [one for one, _ in stage(best_first(candidates))]
        if len(kept) < self._recipe.filters.min_pictures:
            raise WorkRefused("too_few_pictures", _too_few(stage.counts, self._recipe.filters.min_pictures))
        place = {one: number for number, one in enumerate(_by_upload_and_time(candidates))}
        kept.sort(key=place.__getitem__)
        split = hold_out([one.still.sha256 for one in kept], self._recipe.validation)
        pictures = tuple(_picture(number, *pair) for number, pair in enumerate(zip(kept, split, strict=True)))
        rejected = tuple(_rejected(*pair) for pair in sorted(stage.dropped, key=lambda pair: place[pair[0]]))
        sources = {picture.file: self._stills / one.still.file for picture, one in zip(pictures, kept, strict=True)}
        return pictures, rejected, sources

    def _measured(self) -> list[Candidate]:
        measure = make_measure(self._stills)
        stills = [Still.from_dict(fields) for fields in self._order.stills]

        def fields_of(still: Still) -> dict[str, Any]:
            return measure(still).to_dict()

        tell = self._teller("filter", len(stills))
        with Mark(self._marks / "measures") as mark:
            stage = Stage[Still, dict[str, Any]](fields_of, tell=tell, mark=mark, key=lambda still: still.file)
            return [_candidate(still, Measures.from_dict(fields)) for still, fields in stage(stills)]

    def _captioned(self, pictures: Sequence[Picture], sources: Sources) -> tuple[Picture, ...]:
        given, mode = dict(self._order.captions), cast(CaptionMode, self._order.caption)
        check_given(given, [one.name for one in pictures])
        say = make_say(mode, self._recipe.captions, self._order.trigger, self._describe())

        def caption(one: Picture) -> str:
            return given[one.name] if one.name in given else say(sources.get(one.file, self._target / one.file))

        tell = self._teller("caption", len(pictures))
        with Mark(self._marks / "captions") as mark:
            stage = Stage[Picture, str](caption, tell=tell, mark=mark, key=lambda one: one.file)
            return tuple(replace(one, caption=text) for one, text in stage(pictures))

    def _describe(self) -> Say | None:
        if self._order.captioner is None or self._open_captioner is None:
            return None
        folder, num_threads, open_captioner = Path(self._order.captioner), self._order.num_threads, self._open_captioner

        @cache
        def captioner() -> Say:
            """Loaded when the first picture is asked about: often all captions are given, or were found again."""
            return open_captioner(folder, num_threads)

        return lambda path: captioner()(path)

    def _teller(self, stage: StageName, of: int) -> Callable[[int], None]:
        return lambda done: self._tell({"stage": stage, "done": done, "of": of})

    def _outcome(self, dataset: Dataset) -> dict[str, Any]:
        return {
            "frames_used": len(dataset.pictures),
            "frames_rejected": dataset.num_rejected,
            "num_held_out": dataset.num_held_out,
            "data_sha256": data_sha256(dataset),
            "manifest_sha256": hashlib.sha256((self._target / MANIFEST).read_bytes()).hexdigest(),
        }


def _candidate(still: Still, measures: Measures) -> Candidate:
    descriptor = np.array(measures.descriptor, dtype=np.float64)
    return Candidate(still, measures.sharpness, measures.brightness, descriptor, measures.faces)


def _by_upload_and_time(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Uploads in the order in which they came, stills of each by time."""
    uploads = {upload: place for place, upload in enumerate(dict.fromkeys(one.still.upload_id for one in candidates))}
    return sorted(candidates, key=lambda one: (uploads[one.still.upload_id], one.still.time_s or 0.0))


def _picture(number: int, one: Candidate, is_held_out: bool) -> Picture:
    still = one.still
    return Picture(
        file=f"{IMAGES}/{number:04d}{Path(still.file).suffix}",
        sha256=still.sha256,
        width_px=still.width_px,
        height_px=still.height_px,
        caption="",
        is_held_out=is_held_out,
        upload_id=still.upload_id,
        upload_sha256=still.upload_sha256,
        kind=still.kind,
        time_s=still.time_s,
        faces=one.faces or (),
    )


def _rejected(one: Candidate, reason: str) -> Rejected:
    still = one.still
    return Rejected(still.upload_id, still.time_s, still.file, still.sha256, reason)


def _too_few(counts: Mapping[str, int], min_pictures: int) -> str:
    reasons = ", ".join(
        f"{number} {name.replace('_', ' ')}" for name, number in counts.items() if name not in ("in", "out")
    )
    wanted = f"{counts['out']} of {counts['in']} pictures can be learned from, and {min_pictures} are the fewest."
    return f"{wanted} The others: {reasons}." if reasons else wanted
