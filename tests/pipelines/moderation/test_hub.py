"""A classifier in transformers' format: a tiny one with random weights, saved here and loaded as any other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTModel
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from configs.settings import ModerationSettings
from pipelines.moderation.classifier import Classifier, ClassifierError, load_classifier
from pipelines.moderation.hub import unsafe_ids

SIDE_PX = 32
LABELS = ["drawings", "Hentai", "neutral", "porn"]
MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    def make(labels: list[str] = LABELS, *, kind: Any = ViTForImageClassification, **processor: Any) -> Path:
        torch.manual_seed(7)
        config = ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=SIDE_PX,
            patch_size=8,
            initializer_range=1.0,  # so that pictures differ in their scores
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
        )
        kind(config).save_pretrained(tmp_path)
        ViTImageProcessorPil(size={"height": SIDE_PX, "width": SIDE_PX}, **processor).save_pretrained(tmp_path)
        return tmp_path

    return make


def load(folder: Path, **changes: Any) -> Classifier:
    values = {"classifier": "transformers", "model": str(folder), "device": "cpu", "num_threads": 1}
    return load_classifier(ModerationSettings.model_validate(values | changes))


def pictures() -> list[Image.Image]:
    photographs = [Image.fromarray(getattr(skimage.data, name)()) for name in ("astronaut", "chelsea", "coffee")]
    return [*photographs, Image.new("RGB", (9, 300), "red")]


def test_the_score_is_the_probability_of_all_unsafe_labels_together(make_folder: MakeFolder) -> None:
    folder = make_folder()
    (scores,) = load(folder).look(pictures()[:1])
    model = ViTForImageClassification.from_pretrained(folder).eval()
    pixels = np.asarray(pictures()[0].resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR), np.float32) / 127.5 - 1
    with torch.no_grad():
        shares = model(torch.from_numpy(pixels).permute(2, 0, 1)[None]).logits.softmax(-1)[0]
    assert scores == {"sexual": pytest.approx(float(shares[1] + shares[3]), abs=1e-4)}
    assert 0.01 < scores["sexual"] < 0.99


def test_scores_do_not_depend_on_the_batch(make_folder: MakeFolder) -> None:
    classifier = load(make_folder())
    alone = [classifier.look([picture])[0]["sexual"] for picture in pictures()]
    assert [scores["sexual"] for scores in classifier.look(pictures())] == pytest.approx(alone, abs=1e-5)
    assert np.ptp(alone) > 0.01


def test_a_shrunk_picture_scores_the_same(make_folder: MakeFolder) -> None:
    classifier = load(make_folder())
    shrunk = [classifier.shrink(picture) for picture in pictures()]
    assert {picture.size for picture in shrunk} == {(SIDE_PX, SIDE_PX)}
    assert classifier.look(shrunk) == classifier.look(pictures())


def test_its_name_is_that_of_the_folder_without_its_path(make_folder: MakeFolder) -> None:
    folder = make_folder()
    assert load(folder).name == folder.name


def test_a_model_without_a_known_label_is_refused_naming_what_it_has(make_folder: MakeFolder) -> None:
    with pytest.raises(ClassifierError, match=r"cat, dog.*unsafe_labels"):
        load(make_folder(["cat", "dog"]))


def test_the_settings_say_which_labels_mean_it(make_folder: MakeFolder) -> None:
    folder = make_folder(["cat", "dog"])
    assert load(folder, unsafe_labels=["Dog"]).look(pictures()[:1])[0]["sexual"] > 0
    with pytest.raises(ClassifierError, match="not all"):  # every picture would be flagged
        unsafe_ids({0: "cat", 1: "dog"}, ("dog", "cat"), where="x")


def test_a_model_that_was_never_trained_to_classify_is_refused(make_folder: MakeFolder) -> None:
    folder = make_folder(kind=ViTModel)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["ViTForImageClassification"]}))
    with pytest.raises(ClassifierError, match=r"no trained image classifier.*classifier"):
        load(folder)


def test_a_pickle_is_never_loaded(make_folder: MakeFolder) -> None:
    folder = make_folder()
    model = ViTForImageClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ClassifierError, match="cannot be loaded"):
        load(folder)


@pytest.mark.parametrize("damage", ["nothing there", "cut weights", "no processor"])
def test_a_folder_that_is_no_classifier_is_refused(make_folder: MakeFolder, damage: str, tmp_path: Path) -> None:
    folder = make_folder()
    match damage:
        case "nothing there":
            folder = tmp_path / "empty"
            folder.mkdir()
        case "cut weights":
            weights = folder / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:1_000])
        case _:
            (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ClassifierError, match="cannot be loaded"):
        load(folder)


def test_scores_that_are_no_numbers_are_an_error_and_not_a_pass(make_folder: MakeFolder) -> None:
    folder = make_folder()
    model = ViTForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.bias.fill_(float("nan"))
    model.save_pretrained(folder)
    with pytest.raises(ArithmeticError, match="no number"):
        load(folder).look(pictures())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_asked_for_and_not_there_stops_the_start(make_folder: MakeFolder) -> None:
    with pytest.raises(ClassifierError, match="no CUDA device"):
        load(make_folder(), device="cuda")


@pytest.mark.gpu
def test_a_gpu_gives_the_scores_of_the_cpu(make_folder: MakeFolder) -> None:
    folder = make_folder()
    on_cpu, on_gpu = (load(folder, device=device).look(pictures()) for device in ("cpu", "cuda"))
    for expected, found in zip(on_cpu, on_gpu, strict=True):
        assert found["sexual"] == pytest.approx(expected["sexual"], abs=0.05)
