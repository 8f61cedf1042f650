"""A prompt → scores, by its words. Fast, in many languages, and no judge of meaning: the pictures are looked at too."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from pipelines.moderation.lexicon import Kind, Lexicon, Term, load_lexicon
from pipelines.moderation.scores import MINORS, SEXUAL, Scores
from pipelines.moderation.wording import UNSPACED, tidy, words_of

ADULT_AGE = 18
# 12 years old, 12yo, aged 12, and how other languages say it; of a tidy text.
AGE = re.compile(
    r"(?<!\d)(\d{1,2})[\s-]*(?:(?:years?|yrs?|y)[\s-]*(?:old|of age)|y/?o\b|jahre alt|jahrige?[rsn]?\b|ans\b|a[nñ]os\b"
    r"|anni\b|лет|歳|才の|岁|歲|살)|\baged?(?: of)?:? (\d{1,2})(?!\d)"
)
AGE_WEIGHT = 0.95
# Only words that leave room for doubt are read in the light of those around them.
DOUBTFUL_BELOW = 0.9
CONTEXT_FACTOR = 0.5
MAX_NEGATED = 8  # words that one negation may reach over
BESIDE_CHARS = 8  # in scripts without spaces


@dataclass(frozen=True, slots=True)
class Found:
    """A term, and which words of the prompt it is."""

    term: Term
    start: int
    end: int


def screen_text(text: str) -> Scores:
    """`sexual`, and `sexual/minors` only where the two meet. What a prompt denies is not held against it."""
    lexicon = load_lexicon()
    clear = tidy(text)
    terms = {*_among_words(words_of(clear, lexicon.is_known), lexicon), *_within(clear, lexicon)}
    factor = CONTEXT_FACTOR if any(term.kind == "context" for term in terms) else 1.0
    sexual = _together(
        t.weight if t.weight > DOUBTFUL_BELOW else t.weight * factor for t in terms if t.kind == "sexual"
    )
    young = max([*_weights(terms, "minors"), *_ages(clear)], default=0.0)
    both = max(_weights(terms, "both"), default=0.0)
    # About a child, little is much.
    return {
        SEXUAL: round(max(sexual, both), 4),
        MINORS: round(max(both, young * (1 - (1 - sexual) ** 2)), 4),
    }


def _among_words(words: Sequence[str], lexicon: Lexicon) -> Iterator[Term]:
    found = list(_find(words, lexicon))
    taken = {i for one in found if one.term.kind in {"sexual", "both"} for i in range(one.start, one.end)}
    return (one.term for one in found if not _is_denied(one, words, taken, lexicon))


def _find(words: Sequence[str], lexicon: Lexicon) -> Iterator[Found]:
    """From left to right, the longest phrase first."""
    at = 0
    while at < len(words):
        found = _longest_at(words, at, lexicon)
        if found is None:
            at += 1
            continue
        yield found
        at = found.end


def _longest_at(words: Sequence[str], at: int, lexicon: Lexicon) -> Found | None:
    for count in range(min(lexicon.longest.get(words[at], 1), len(words) - at), 1, -1):
        if (term := lexicon.phrases.get(" ".join(words[at : at + count]))) is not None:
            return Found(term, at, at + count)
    term = lexicon.word(words[at])
    return None if term is None else Found(term, at, at + 1)


def _is_denied(one: Found, words: Sequence[str], taken: set[int], lexicon: Lexicon) -> bool:
    """`no nudity`, `without any nudity or sex`, `nudity-free`; but not `no background, nude`."""
    if one.end < len(words) and words[one.end] in lexicon.free:
        return True
    for at in range(one.start - 1, max(-1, one.start - 1 - MAX_NEGATED), -1):
        word = words[at]
        if word in lexicon.negations and at not in taken:
            return True
        if word not in lexicon.fillers and at not in taken:  # a comma is neither
            return False
    return False


def _within(text: str, lexicon: Lexicon) -> Iterator[Term]:
    """Of scripts that set no spaces."""
    if text.isascii() or not UNSPACED.search(text):
        return
    for match in lexicon.unspaced_pattern.finditer(text):
        # Only what stands next to it: a slice of all before would make long texts slow.
        before = text[max(0, match.start() - BESIDE_CHARS) : match.start()].rstrip()
        after = text[match.end() : match.end() + BESIDE_CHARS].lstrip()
        if not (before.endswith(lexicon.unspaced_negations) or after.startswith(lexicon.unspaced_free)):
            yield lexicon.unspaced[match[0]]


def _ages(text: str) -> Iterator[float]:
    ages = (int(match[1] or match[2]) for match in AGE.finditer(text))
    return (AGE_WEIGHT for age in ages if 0 < age < ADULT_AGE)


def _weights(terms: Iterable[Term], kind: Kind) -> list[float]:
    return [term.weight for term in terms if term.kind == kind]


def _together(weights: Iterable[float]) -> float:
    """Each says that much of what the others leave open."""
    return 1 - prod(1 - weight for weight in weights)
