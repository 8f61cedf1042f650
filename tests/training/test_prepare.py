"""From stills to a dataset: what is chosen, what is said of it, and that nothing is done twice."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.sandbox import Bounds, run_apart
from pipelines.work import WorkRefused
from tests.training.stills import blurred, film, flat, lay, png, prepare_order, scenery
from tests.training.tiny_captioners import WORDS, make_tiny_blip
from training import prepare as preparing
from training.captioner import load_captioner
from training.dataset import read_dataset
from training.orders import CAPTIONED_PREPARE_WORK, PrepareOrder
from training.prepare import prepare
from training.recipe import Recipe

BOUNDS = Bounds(wall_s=120, memory_bytes=16 * 2**30, file_bytes=2**20)


class Told(list[dict[str, Any]]):
    """What a work tells."""

    def __call__(self, news: dict[str, Any]) -> None:
        self.append(news)

    def of(self, stage: str) -> list[int]:
        return [news["done"] for news in self if news["stage"] == stage]


def run(order: PrepareOrder, told: Told | None = None, **how: Any) -> dict[str, Any]:
    return prepare(json.loads(json.dumps(order.to_dict())), told if told is not None else Told(), **how)


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_stills_and_uploads_become_one_dataset_each_rejected_one_with_its_reason(tmp_path: Path) -> None:
    stills = [
        *film(tmp_path, 5, upload="upl_2", seed=20),
        lay(tmp_path, "blurry.png", blurred(scenery(1)), time_s=9.0),
        lay(tmp_path, "dark.png", flat(4), time_s=8.0),
        lay(tmp_path, "nsfw.png", scenery(2), is_nsfw=True),
        lay(tmp_path, "upload.png", png(scenery(22), compress_level=1), upload_id="upl_3", kind="image", time_s=None),
        lay(tmp_path, "small.png", scenery(5, (63, 63)), upload_id="upl_4", kind="image", time_s=None),
        lay(tmp_path, "good.png", scenery(6), upload_id="upl_5", kind="image", time_s=None),
    ]
    told = Told()
    outcome = run(prepare_order(tmp_path, stills), told)
    dataset = read_dataset(tmp_path / "dataset")
    assert {one.file: one.reason for one in dataset.rejected} == {
        "blurry.png": "blurry",
        "dark.png": "dark",
        "nsfw.png": "nsfw",
        "upload.png": "duplicate",
        "small.png": "too_small",
    }
    assert [one.upload_id for one in dataset.pictures] == ["upl_2"] * 5 + ["upl_5"]
    assert [one.time_s for one in dataset.pictures] == [0.0, 0.5, 1.0, 1.5, 2.0, None]
    assert {one.caption for one in dataset.pictures} == {"sks person"}
    assert outcome["frames_used"] == 6 and sum(outcome["frames_rejected"].values()) == 5
    assert outcome["num_held_out"] == dataset.num_held_out == 1
    assert (told.of("filter"), told.of("caption")) == ([*range(1, 12)], [*range(1, 7)])
    assert dataset.recipe_sha256 == Recipe.from_json(dataset.recipe).sha256


def test_too_few_pictures_are_refused_with_the_reasons(tmp_path: Path) -> None:
    stills = [
        *film(tmp_path, 2),
        lay(tmp_path, "dark.png", flat(4)),
        lay(tmp_path, "again.png", scenery(0), upload_id="upl_2"),
        lay(tmp_path, "too.png", scenery(1), upload_id="upl_2"),
    ]
    with pytest.raises(WorkRefused) as caught:
        run(prepare_order(tmp_path, stills))
    assert caught.value.code == "too_few_pictures"
    said = "2 of 5 pictures can be learned from, and 3 are the fewest. The others: 2 duplicate, 1 dark."
    assert str(caught.value) == said
    assert not (tmp_path / "dataset/manifest.json").exists()


def test_a_second_run_elsewhere_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        run(prepare_order(tmp_path / name, film(tmp_path / name, 6)))
    assert all_bytes(tmp_path / "one/dataset") == all_bytes(tmp_path / "other/dataset")


def test_a_killed_run_goes_on_and_measures_and_captions_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = {}
    for name in ("whole", "killed"):
        orders[name] = prepare_order(tmp_path / name, film(tmp_path / name, 5), caption="model", captioner="there")
    measured: list[str] = []
    described: list[str] = []
    dies_at = ""

    def watched(folder: Path) -> Any:
        measure = true_measure(folder)

        def and_note(still: Any) -> Any:
            if still.file == dies_at:
                raise KeyboardInterrupt
            measured.append(still.file)
            return measure(still)

        return and_note

    def fake_captioner(folder: Path, num_threads: int) -> Any:
        def describe(path: Path) -> str:
            if len(described) == 2 and dies_at == "caption":
                raise KeyboardInterrupt
            described.append(path.name)
            return f"seen in {path.name}"

        return describe

    true_measure = preparing.make_measure
    monkeypatch.setattr(preparing, "make_measure", watched)
    run(orders["whole"], open_captioner=fake_captioner)
    measured.clear(), described.clear()
    for dies_at in ("upl_1-02.png", "caption", ""):
        if dies_at:
            with pytest.raises(KeyboardInterrupt):
                run(orders["killed"], open_captioner=fake_captioner)
        else:
            run(orders["killed"], open_captioner=fake_captioner)
    names = [f"upl_1-{index:02d}.png" for index in range(5)]
    assert (measured, described) == (names, names)
    assert all_bytes(tmp_path / "killed/dataset") == all_bytes(tmp_path / "whole/dataset")
    run(orders["killed"], open_captioner=fake_captioner)
    assert len(described) == 5
    assert all_bytes(tmp_path / "killed/dataset") == all_bytes(tmp_path / "whole/dataset")


def test_pictures_of_an_earlier_job_keep_their_split_and_get_new_captions(tmp_path: Path) -> None:
    first = prepare_order(tmp_path, [*film(tmp_path, 6), lay(tmp_path, "dark.png", flat(4))])
    before = run(first)
    dataset = read_dataset(tmp_path / "dataset")
    pictures = {name: data for name, data in all_bytes(tmp_path / "dataset").items() if name.endswith(".png")}
    again = replace(first, job_id="job_2", stills=(), trigger="abc", captions=(("0002.png", "abc on a chair"),))
    after = run(again)
    anew = read_dataset(tmp_path / "dataset")
    assert [one.caption for one in anew.pictures] == ["abc", "abc", "abc on a chair", "abc", "abc", "abc"]
    assert (tmp_path / "dataset/images/0002.txt").read_text() == "abc on a chair"
    assert (anew.job_id, anew.trigger, anew.rejected) == ("job_2", "abc", dataset.rejected)
    assert [one.is_held_out for one in anew.pictures] == [one.is_held_out for one in dataset.pictures]
    assert {name: data for name, data in all_bytes(tmp_path / "dataset").items() if name.endswith(".png")} == pictures
    assert after["frames_rejected"] == before["frames_rejected"] == {"dark": 1}
    assert after["data_sha256"] != before["data_sha256"]


def test_a_dataset_that_was_changed_is_refused(tmp_path: Path) -> None:
    order = prepare_order(tmp_path, film(tmp_path, 4))
    run(order)
    (tmp_path / "dataset/images/0001.png").write_bytes(b"else")
    with pytest.raises(WorkRefused, match=r"0001\.png is not the picture") as caught:
        run(replace(order, job_id="job_2"))
    assert caught.value.code == "bad_dataset"


async def test_it_runs_apart_with_a_captioner_and_says_how_far_it_is(tmp_path: Path) -> None:
    captioner = make_tiny_blip(tmp_path / "captioner")
    folder = tmp_path / "room"
    order = prepare_order(folder, film(folder, 4), caption="model", captioner=str(captioner))
    told = Told()
    outcome = await run_apart(CAPTIONED_PREPARE_WORK, order.to_dict(), bounds=BOUNDS, on_news=told)
    dataset = read_dataset(folder / "dataset")
    assert outcome["frames_used"] == len(dataset.pictures) == 4
    describe = load_captioner(captioner, num_threads=1)
    for one in dataset.pictures:
        assert one.caption == f"sks person, {' '.join(describe(folder / 'dataset' / one.file).split())}"
        assert set(one.caption.removeprefix("sks person, ").split()) <= set(WORDS)
    assert (told.of("filter"), told.of("caption")) == ([1, 2, 3, 4], [1, 2, 3, 4])
