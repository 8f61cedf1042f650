"""Datasets on the disk: how pictures are split, that the same dataset is the same bytes, and what is not one."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.request import Face
from tests.training.stills import film
from training.dataset import (
    Dataset,
    DatasetError,
    Picture,
    Rejected,
    Source,
    data_sha256,
    hold_out,
    read_dataset,
    read_sources,
    write_dataset,
)
from training.recipe import Recipe, ValidationPart

parts = st.builds(
    ValidationPart, held_out_share=st.floats(0.01, 0.99), max_held_out=st.integers(1, 40), patience=st.just(1)
)
hashes = st.lists(st.integers(0, 60).map(str), min_size=2, max_size=60).filter(lambda names: len(set(names)) > 1)


@given(hashes, parts)
def test_at_least_one_is_held_out_and_one_learned_and_no_bytes_are_both(names: list[str], part: ValidationPart) -> None:
    split = hold_out(names, part)
    held = {name for name, is_held_out in zip(names, split, strict=True) if is_held_out}
    learned = {name for name, is_held_out in zip(names, split, strict=True) if not is_held_out}
    assert held and learned and not held & learned
    assert len(held) <= part.max_held_out


@given(st.integers(2, 200), parts)
def test_what_is_held_out_is_spread_evenly(number: int, part: ValidationPart) -> None:
    split = hold_out([str(index) for index in range(number)], part)
    held = [index for index, is_held_out in enumerate(split) if is_held_out]
    assert len(held) == max(1, min(part.max_held_out, round(part.held_out_share * number), number - 1))
    gaps = {later - earlier for earlier, later in zip(held, held[1:], strict=False)}
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(st.lists(st.integers(5, 40), min_size=2, max_size=5))
def test_every_upload_gives_its_share(lengths: list[int]) -> None:
    uploads = [upload for upload, length in enumerate(lengths) for _ in range(length)]
    split = hold_out([str(index) for index in range(len(uploads))], ValidationPart(max_held_out=1_000))
    for upload, length in enumerate(lengths):
        num_held = sum(is_held for is_held, of in zip(split, uploads, strict=True) if of == upload)
        assert abs(num_held - length / 5) <= 1.5


def test_one_picture_alone_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="two different pictures"):
        hold_out(["a", "a"], ValidationPart())


def a_dataset(folder: Path, **changes: object) -> tuple[Dataset, dict[str, Path]]:
    stills = film(folder, 2) + film(folder, 2, upload="upl_2", seed=10)
    pictures = tuple(
        Picture(
            file=f"images/{number:04d}.png",
            sha256=still.sha256,
            width_px=still.width_px,
            height_px=still.height_px,
            caption=f"Grüße {number}\n",
            is_held_out=number == 2,
            upload_id=still.upload_id,
            upload_sha256=still.upload_sha256,
            kind=still.kind,
            time_s=still.time_s,
            faces=(Face(1, 2, 3, 4, 0.1),),
        )
        for number, still in enumerate(stills)
    )
    recipe = Recipe(title="A test")
    dataset = Dataset(
        job_id="job_1",
        trigger="sks ⚘",
        caption_mode="template",
        recipe=recipe.to_json(),
        recipe_sha256=recipe.sha256,
        base_model="tiny-sd",
        base_sha256="b" * 64,
        pictures=pictures,
        rejected=(
            Rejected("upl_1", 1.5, "upl_1-09.png", "c" * 64, "blurry"),
            Rejected("upl_3", None, "x", "d", "dark"),
        ),
    )
    sources = {one.file: folder / "stills" / still.file for one, still in zip(pictures, stills, strict=True)}
    return replace(dataset, **changes), sources


def test_a_dataset_is_read_as_it_was_written(tmp_path: Path) -> None:
    dataset, sources = a_dataset(tmp_path)
    write_dataset(tmp_path / "dataset", dataset, sources)
    assert read_dataset(tmp_path / "dataset") == dataset
    assert (tmp_path / "dataset/images/0001.txt").read_text("utf-8") == "Grüße 1\n"
    assert (tmp_path / "dataset/images/0003.png").read_bytes() == sources["images/0003.png"].read_bytes()


def test_its_manifest_says_where_every_picture_is_from(tmp_path: Path) -> None:
    dataset, sources = a_dataset(tmp_path)
    write_dataset(tmp_path / "dataset", dataset, sources)
    manifest = json.loads((tmp_path / "dataset/manifest.json").read_bytes())
    assert [(one["upload_id"], one["sha256"], one["kind"]) for one in manifest["sources"]] == [
        ("upl_1", "a" * 64, "video"),
        ("upl_2", "a" * 64, "video"),
    ]
    assert manifest["sources"][1]["pictures"] == [
        {"file": "images/0002.png", "time_s": 0.0},
        {"file": "images/0003.png", "time_s": 0.5},
    ]
    assert manifest["base_model"] == {"id": "tiny-sd", "sha256": "b" * 64}
    assert manifest["recipe"] == {
        "sha256": Recipe(title="A test").sha256,
        **json.loads(Recipe(title="A test").to_json()),
    }
    assert manifest["counts"] == {"learned": 3, "held_out": 1, "rejected": {"blurry": 1, "dark": 1}}
    assert (manifest["trigger"], manifest["captions"]) == ("sks ⚘", "template")


def test_a_manifest_alone_tells_the_uploads_and_what_is_of_each(tmp_path: Path) -> None:
    dataset, sources = a_dataset(tmp_path)
    write_dataset(tmp_path / "dataset", dataset, sources)
    first, second = read_sources((tmp_path / "dataset/manifest.json").read_bytes())
    assert first == Source("upl_1", "a" * 64, "video", ("images/0000.png", "images/0001.png"), (0.0, 0.5))
    assert second.upload_id == "upl_2"
    with pytest.raises(DatasetError, match="none that this version understands"):
        read_sources(b'{"sources": [{}]}')


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_dataset_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        dataset, sources = a_dataset(tmp_path / name)
        write_dataset(tmp_path / name / "dataset", dataset, sources)
    assert files_of(tmp_path / "one/dataset") == files_of(tmp_path / "other/dataset")


def test_captions_are_written_anew_over_pictures_that_are_there(tmp_path: Path) -> None:
    dataset, sources = a_dataset(tmp_path)
    first = write_dataset(tmp_path / "dataset", dataset, sources)
    said = tuple(replace(one, caption="else") for one in dataset.pictures)
    second = write_dataset(tmp_path / "dataset", replace(dataset, pictures=said), {})
    assert first != second
    assert read_dataset(tmp_path / "dataset").pictures == said
    assert (tmp_path / "dataset/images/0000.txt").read_text() == "else"


CHANGES: dict[str, Callable[[tuple[Picture, ...]], tuple[Picture, ...]]] = {
    "a picture": lambda all_: (replace(all_[0], sha256="e" * 64), *all_[1:]),
    "a caption": lambda all_: (replace(all_[0], caption="else"), *all_[1:]),
    "what is held out": lambda all_: (replace(all_[0], is_held_out=True), *all_[1:]),
    "the order": lambda all_: all_[::-1],
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_decides_the_weights_changes_the_hash(tmp_path: Path, what: str) -> None:
    dataset, _ = a_dataset(tmp_path)
    assert data_sha256(replace(dataset, pictures=CHANGES[what](dataset.pictures))) != data_sha256(dataset)


def test_what_does_not_decide_the_weights_leaves_the_hash_alone(tmp_path: Path) -> None:
    dataset, _ = a_dataset(tmp_path)
    other = replace(dataset, job_id="job_2", rejected=(), base_model="x", recipe="{}", recipe_sha256="y")
    assert data_sha256(other) == data_sha256(dataset)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "A file of the dataset cannot be read": lambda folder: (folder / "images/0001.png").unlink(),
    r"images/0001\.png is not the picture": lambda folder: (folder / "images/0001.png").write_bytes(b"else"),
    r"rejected\.jsonl is not the file": lambda folder: (folder / "rejected.jsonl").write_bytes(b""),
    "contradicts itself": lambda folder: edit(folder, '"is_held_out": true', '"is_held_out": false'),
    "has format 2": lambda folder: edit(folder, '"format": 1', '"format": 2'),
    "no name of a picture": lambda folder: edit(folder, "images/0001.png", "../../../etc/passwd"),
    "none that this version understands": lambda folder: edit(folder, '"caption"', '"text"'),
    r"none that this version understands: JSON": lambda folder: (folder / "manifest.json").write_bytes(b"{"),
}


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / "manifest.json").read_text("utf-8")
    assert old in text
    (folder / "manifest.json").write_text(text.replace(old, new), "utf-8")


@pytest.mark.parametrize("words", DAMAGES)
def test_what_is_no_whole_dataset_is_not_read(tmp_path: Path, words: str) -> None:
    dataset, sources = a_dataset(tmp_path)
    write_dataset(tmp_path / "dataset", dataset, sources)
    DAMAGES[words](tmp_path / "dataset")
    with pytest.raises(DatasetError, match=words):
        read_dataset(tmp_path / "dataset")


def test_without_a_manifest_it_is_none_yet(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"manifest\.json"):
        read_dataset(tmp_path)
