"""The tokenizer knows caption words whole, covers everything else, and survives saving."""

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from training.pretrain.recipe import PretrainRecipe
from training.pretrain.text import build_text_encoder, build_tokenizer

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


def test_the_same_captions_in_any_order_give_the_same_vocabulary(tokenizer: CLIPTokenizer, recipe: PretrainRecipe):
    assert build_tokenizer(TEXTS[::-1], recipe.text).get_vocab() == tokenizer.get_vocab()


def test_a_saved_tokenizer_pads_and_cuts_to_the_encoders_length(
    tokenizer: CLIPTokenizer, recipe: PretrainRecipe, tmp_path: Path
):
    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    encoder = build_text_encoder(loaded, recipe.text)
    for text in ("red apple", "red apple " * 100):
        tokens_BL = loaded(text, padding="max_length", truncation=True, return_tensors="pt").input_ids
        assert encoder(tokens_BL)[0].shape == (1, recipe.text.max_tokens, recipe.text.width)
