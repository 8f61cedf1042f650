"""Texts are encoded together, once while the cache holds them, and anew for adapters that touch the encoders."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from models.lora import RowLoras
from pipelines.encoding import PromptEncoder, PromptText
from pipelines.families.base import Family
from pipelines.sample import TextEmbedding
from tests.pipelines.bench import Bench

EMBEDDING_BYTES = 4 * 2 * 3


@dataclass
class CountingFamily:
    """Gives each text an embedding that tells its number."""

    text_encoders: tuple[str, ...] = ("text_encoder",)
    passes: list[list[str | None]] = field(default_factory=list)

    def encode(self, texts: Sequence[str | None], loras: Sequence[RowLoras]) -> list[TextEmbedding]:
        first = sum(len(texts) for texts in self.passes)
        self.passes.append(list(texts))
        return [TextEmbedding(torch.full((2, 3), float(first + index))) for index in range(len(texts))]


@pytest.fixture
def family() -> CountingFamily:
    return CountingFamily()


def encoder_of(family: CountingFamily, *, num_cached: int = 100, max_batch: int = 100) -> PromptEncoder:
    return PromptEncoder(cast(Family, family), max_bytes=num_cached * EMBEDDING_BYTES, max_batch=max_batch)


def numbers(embeddings: Sequence[TextEmbedding]) -> list[int]:
    return [int(it.tokens_LD[0, 0]) for it in embeddings]


def texts(*words: str | None) -> list[PromptText]:
    return [PromptText(word) for word in words]


def adapter(sha256: str, *components: str) -> Any:
    return SimpleNamespace(sha256=sha256, components=dict.fromkeys(components, {}))


def test_equal_texts_are_encoded_once_in_one_pass(family: CountingFamily) -> None:
    found, num_made = encoder_of(family).encode(texts("a", "b", "a", None, "a"))
    assert numbers(found) == [0, 1, 0, 2, 0]
    assert family.passes == [["a", "b", None]]
    assert num_made == 3


def test_nothing_said_is_not_an_empty_text(family: CountingFamily) -> None:
    found, _ = encoder_of(family).encode(texts("", None))
    assert numbers(found) == [0, 1]


def test_known_texts_are_not_encoded_again(family: CountingFamily) -> None:
    encoder = encoder_of(family)
    encoder.encode(texts("a", "b"))
    found, num_made = encoder.encode(texts("b", "c"))
    assert numbers(found) == [1, 2]
    assert (family.passes[1:], num_made) == ([["c"]], 1)
    assert encoder.num_bytes == 3 * EMBEDDING_BYTES


def test_many_texts_take_several_passes(family: CountingFamily) -> None:
    found, _ = encoder_of(family, max_batch=2).encode(texts(*"abcde"))
    assert numbers(found) == [0, 1, 2, 3, 4]
    assert [len(some) for some in family.passes] == [2, 2, 1]


def test_the_text_that_was_not_wanted_for_longest_goes_first(family: CountingFamily) -> None:
    encoder = encoder_of(family, num_cached=2)
    encoder.encode(texts("a", "b"))
    encoder.encode(texts("a"))
    encoder.encode(texts("c"))
    assert encoder.num_bytes == 2 * EMBEDDING_BYTES
    assert encoder.encode(texts("a"))[1] == 0
    assert encoder.encode(texts("b"))[1] == 1


def test_without_room_nothing_is_kept_and_all_is_found(family: CountingFamily) -> None:
    encoder = encoder_of(family, num_cached=0)
    found, num_made = encoder.encode(texts("a", "b"))
    assert (numbers(found), num_made, encoder.num_bytes) == ([0, 1], 2, 0)


def test_an_adapter_counts_where_it_touches_the_text_encoders(family: CountingFamily) -> None:
    denoiser_only, both = adapter("1", "unet"), adapter("2", "unet", "text_encoder")
    encoder = encoder_of(family)
    wanted = [
        PromptText("a"),
        PromptText("a", ((denoiser_only, 1.0),)),
        PromptText("a", ((both, 1.0),)),
        PromptText("a", ((both, 0.5),)),
        PromptText("a", ((denoiser_only, 1.0), (both, 1.0))),
    ]
    found, num_made = encoder.encode(wanted)
    assert numbers(found) == [0, 0, 1, 2, 1]
    assert num_made == 3


def test_encoded_together_or_alone_a_text_means_the_same(bench: Bench) -> None:
    family = bench.runner
    words = ["a red apple", "boat", "", "red red red boat"]
    with torch.inference_mode():
        together = family.encode(words, [()] * len(words))
        alone = [family.encode([word], [()])[0] for word in words]
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours.tokens_LD, theirs.tokens_LD, atol=1e-5, rtol=0)
        assert (ours.pooled_D is None) == (bench.family in ("sd", "z-image", "qwen-image"))
        if ours.pooled_D is not None and theirs.pooled_D is not None:
            torch.testing.assert_close(ours.pooled_D, theirs.pooled_D, atol=1e-5, rtol=0)
