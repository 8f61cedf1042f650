"""A CLIP tokenizer that knows every word of the captions whole, and a small CLIP text encoder of matching size."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.pretrain.recipe import TextRecipe

START, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def keep_tokenizer(texts: Iterable[str], part: TextRecipe, folder: Path) -> CLIPTokenizer:
    """The tokenizer in `folder`, made there first where it is missing.

    Merges of equal frequency come in another order each time they are learned, and the encoder knows words by number:
    a run that resumes must find the numbers that it began with.
    """
    if not folder.is_dir():
        partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        build_tokenizer(texts, part).save_pretrained(partial)
        partial.rename(folder)
    return CLIPTokenizer.from_pretrained(folder)


def build_tokenizer(texts: Iterable[str], part: TextRecipe) -> CLIPTokenizer:
    """Train byte-level merges on `texts`. Any other text is still covered, byte by byte."""
    trained = tokenizers.Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix=_WORD_END))
    trained.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=part.vocabulary,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        continuing_subword_prefix="",
        end_of_word_suffix=_WORD_END,
    )
    trained.train_from_iterator(texts, trainer)
    merges = _merges(trained)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    # CLIP's order: bytes, bytes that end a word, merged tokens, then the two marks.
    tokens = [
        *letters,
        *(letter + _WORD_END for letter in letters),
        *(left + right for left, right in merges),
        START,
        END,
    ]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=part.max_tokens)


def build_text_encoder(tokenizer: CLIPTokenizer, part: TextRecipe) -> CLIPTextModel:
    """A fresh encoder for that tokenizer."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=part.width,
        intermediate_size=4 * part.width,
        projection_dim=part.width,
        num_hidden_layers=part.layers,
        num_attention_heads=part.heads,
        max_position_embeddings=part.max_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def _merges(trained: tokenizers.Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(trained.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges]
