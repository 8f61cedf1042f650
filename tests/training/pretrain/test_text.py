"""The tokenizer knows caption words whole, covers everything else, and survives saving."""

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from training.pretrain.recipe import PretrainRecipe
from training.pretrain.text import build_text_encoder, build_tokenizer, keep_tokenizer

TEXTS = ["red apple", "green apple", "on a sky blue background", "3d emoji"]


@pytest.fixture
def tokenizer(recipe: PretrainRecipe) -> CLIPTokenizer:
    return build_tokenizer(TEXTS, recipe.text)


def test_every_word_of_the_captions_is_one_token(tokenizer: CLIPTokenizer):
    words = ["red", "apple", "on", "a", "sky", "blue", "background"]
    assert tokenizer.tokenize("Red apple on a sky blue background") == [f"{word}</w>" for word in words]


@pytest.mark.parametrize("text", ["zwölf zebras", "日本の林檎", "🍎", "a\x07b", "x" * 500])
def test_any_text_gets_tokens_that_give_it_back(tokenizer: CLIPTokenizer, text: str):
    ids = tokenizer(text).input_ids
    words = tokenizer.convert_ids_to_tokens(ids)
    assert words[1:-1].count("<|endoftext|>") == 0
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")


def test_a_run_keeps_the_tokenizer_that_it_began_with(recipe: PretrainRecipe, tmp_path: Path):
    first = keep_tokenizer(TEXTS, recipe.text, tmp_path / "tokenizer")
    again = keep_tokenizer(["other", "words", "altogether"], recipe.text, tmp_path / "tokenizer")
    assert again.get_vocab() == first.get_vocab()
    assert again("red apple").input_ids == first("red apple").input_ids
    assert again.model_max_length == recipe.text.max_tokens


def test_a_saved_tokenizer_pads_and_cuts_to_the_encoders_length(
    tokenizer: CLIPTokenizer, recipe: PretrainRecipe, tmp_path: Path
):
    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    encoder = build_text_encoder(loaded, recipe.text)
    for text in ("red apple", "red apple " * 100):
        tokens_BL = loaded(text, padding="max_length", truncation=True, return_tensors="pt").input_ids
        assert encoder(tokens_BL)[0].shape == (1, recipe.text.max_tokens, recipe.text.width)
