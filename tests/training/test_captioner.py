"""Captioners with random weights, loaded from folders in the hub's format: BLIP and Florence-2."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from pipelines.work import WorkRefused
from tests.training.stills import lay, scenery
from tests.training.tiny_captioners import SPECIAL, WORDS, make_tiny_blip, make_tiny_florence2
from training.captioner import load_captioner

MAKERS = [make_tiny_blip, make_tiny_florence2]


@pytest.mark.parametrize("make", MAKERS)
def test_it_says_words_that_depend_on_the_picture_and_on_nothing_else(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = make(tmp_path / "captioner")
    pictures = [tmp_path / "stills" / lay(tmp_path, f"{seed}.png", scenery(seed)).file for seed in range(4)]
    first, again = (load_captioner(folder, num_threads=1) for _ in range(2))
    said = [first(path) for path in pictures]
    assert [again(path) for path in reversed(pictures)] == said[::-1]
    assert len(set(said)) > 1
    assert set(" ".join(said).split()) <= set(WORDS), "no special token is said"
    assert not any(token in text for token in SPECIAL for text in said)


def test_a_folder_with_another_model_names_those_that_are_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(WorkRefused, match="of the kind 'bert'; known are blip, florence2") as caught:
        load_captioner(tmp_path, num_threads=1)
    assert caught.value.code == "no_captioner"


def test_a_captioner_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    weights = make_tiny_blip(tmp_path) / "model.safetensors"
    tensors = load_file(weights)
    lost = next(name for name in sorted(tensors) if "vision_model.encoder" in name)
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, weights, {"format": "pt"})
    with pytest.raises(WorkRefused, match=f"no weights for {lost}"):
        load_captioner(tmp_path, num_threads=1)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    (make_tiny_blip(tmp_path) / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(WorkRefused, match="cannot be loaded"):
        load_captioner(tmp_path, num_threads=1)
