"""The words that the screen of prompts knows, read from configs/moderation/*.yaml, and how they are looked up."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from configs.settings import CONFIG_DIR, read_yaml
from pipelines.moderation.wording import UNSPACED, tidy

Kind = Literal["sexual", "minors", "both", "harmless", "context"]
Weight = Annotated[float, Field(gt=0, lt=1)]
Words = tuple[Annotated[str, Field(min_length=1)], ...]


class WordList(BaseModel):
    """One file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sexual: Mapping[Weight, Words] = {}
    minors: Mapping[Weight, Words] = {}
    both: Mapping[Weight, Words] = {}  # about minors and sexual at once
    harmless: Words = ()  # phrases that hold a word from above and mean something else
    context: Words = ()
    negations: Words = ()  # before a word
    fillers: Words = ()  # may stand between a negation and its word
    free: Words = ()  # after a word


@dataclass(frozen=True, slots=True)
class Term:
    """One entry of the lists."""

    text: str
    kind: Kind
    weight: float


@dataclass(frozen=True, slots=True)
class Lexicon:
    """All lists together, arranged for looking up."""

    phrases: Mapping[str, Term]
    longest: Mapping[str, int]  # by first word: how many words the longest phrase has that begins with it
    prefixes: Mapping[str, Term]
    prefix_lengths: tuple[int, ...]
    unspaced: Mapping[str, Term]
    unspaced_pattern: re.Pattern[str]
    vocabulary: frozenset[str]  # every word of every phrase
    negations: frozenset[str]
    fillers: frozenset[str]
    free: frozenset[str]
    unspaced_negations: tuple[str, ...]
    unspaced_free: tuple[str, ...]

    def is_known(self, word: str) -> bool:
        """Whether the lists say anything about a word, alone or with others."""
        return word in self.vocabulary or self.word(word) is not None

    def word(self, word: str) -> Term | None:
        """The entry for one word, by itself or by how it begins."""
        if (term := self.phrases.get(word)) is not None:
            return term
        for length in self.prefix_lengths:
            if (term := self.prefixes.get(word[:length])) is not None:
                return term
        return None


@cache
def load_lexicon() -> Lexicon:
    """Read once. Raises SettingsError or pydantic's ValidationError for a broken list."""
    lists = [WordList.model_validate(read_yaml(path)) for path in sorted((CONFIG_DIR / "moderation").glob("*.yaml"))]
    terms = [term for words in lists for term in _terms(words)]
    spaced = [term for term in terms if not UNSPACED.search(term.text)]
    phrases: dict[str, Term] = {}
    longest: dict[str, int] = {}
    prefixes: dict[str, Term] = {}
    for term in spaced:
        *first, last = term.text.split()
        if last.endswith("*") and not first:
            _keep(prefixes, last[:-1], term)
            continue
        # In a phrase a star stands for the plain word and its plural.
        for text in {term.text.removesuffix("*"), term.text.removesuffix("*") + ("s" if last.endswith("*") else "")}:
            _keep(phrases, text, term)
            longest[text.split()[0]] = max(longest.get(text.split()[0], 1), len(text.split()))
    unspaced = {term.text: term for term in terms if UNSPACED.search(term.text)}
    negations = frozenset(word for words in lists for word in words.negations)
    free = frozenset(word for words in lists for word in words.free)
    return Lexicon(
        phrases=phrases,
        longest=longest,
        prefixes=prefixes,
        prefix_lengths=tuple(sorted({len(prefix) for prefix in prefixes}, reverse=True)),
        unspaced=unspaced,
        unspaced_pattern=re.compile("|".join(map(re.escape, sorted(unspaced, key=len, reverse=True)))),
        vocabulary=frozenset(word for text in phrases for word in text.split()),
        negations=negations,
        fillers=frozenset(word for words in lists for word in words.fillers),
        free=free,
        unspaced_negations=tuple(filter(UNSPACED.search, negations)),
        unspaced_free=tuple(filter(UNSPACED.search, free)),
    )


def _terms(words: WordList) -> Iterator[Term]:
    kinds: tuple[tuple[Kind, Mapping[float, Words]], ...] = (
        ("sexual", words.sexual),
        ("minors", words.minors),
        ("both", words.both),
        ("harmless", {0.0: words.harmless}),
        ("context", {0.0: words.context}),
    )
    for kind, weighted in kinds:
        for weight, texts in weighted.items():
            yield from (Term(tidy(text), kind, weight) for text in texts)


def _keep(found: dict[str, Term], text: str, term: Term) -> None:
    """Where languages disagree about a word, the heavier meaning counts; what is listed as harmless stays so."""
    present = found.get(text)
    if present is None or (present.kind != "harmless" and term.weight > present.weight):
        found[text] = term
