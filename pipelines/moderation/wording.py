"""A prompt as plain words, whatever was done to hide them: fullwidth letters, accents, l33t, d.o.t.s, stretching."""

import re
import unicodedata
from collections.abc import Callable, Iterator

# Letters, then signs that stand for letters, as in pu$$y and f*ck.
TOKEN = re.compile(r"[@$]?[^\W_]+(?:[@$!*]{1,2}[^\W_]+)*\${0,2}|[.,;:!?()\[\]\n]")
# Written without spaces between words: Chinese, kana, Hangul.
UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
BREAKS = frozenset(".,;:!?()[]\n")  # a negation reaches no further
# One letter at a time with the same kind of sign between: n.s.f.w, s e x.
SPELLED_OUT = re.compile(r"(?<![^\W_])[^\W\d_](?:([ .\-_*·•/|])[^\W\d_])(?:\1[^\W\d_])+(?![^\W_])")
# Format and filler characters that no eye sees.
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e"
    "\u2060-\u2064\u2066-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0]|[\U000e0000-\U000e0fff]"
)
APOSTROPHE = re.compile(r"(?<=[^\W_])['’](?=(?:s|t|re|ve|ll|d|m)\b)")
STRETCHED = re.compile(r"([^\W\d_])\1{2,}")
# All but the tilde of ñ, which sets niña apart from Nina.
ACCENTS = re.compile("[\u0300-\u0302\u0304-\u036f]|(?<![nN])\u0303")
LEET = str.maketrans("0134578@$!|", "oieastbasil")
LEET_L = str.maketrans("0134578@$!|", "oleastbasll")
LOOKALIKES = str.maketrans("абвгеіјкмнорѕтухԁԛԝαβεικνορτυχ", "abbreijkmhopstyxdqwabeikvoptux")
VOWELS = "aeiou"


def tidy(text: str) -> str:
    """Lower case, one form for each letter, nothing invisible, no accents."""
    if not text.isascii():
        text = INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
        text = unicodedata.normalize("NFC", ACCENTS.sub("", unicodedata.normalize("NFD", text)))
    return APOSTROPHE.sub("", text.casefold())


def words_of(text: str, is_known: Callable[[str], bool]) -> list[str]:
    """The words of a tidy text, disguises taken off where something known is below; and the signs that end a clause."""
    text = SPELLED_OUT.sub(lambda match: _spelled(match[0], is_known), text)
    words: list[str] = []
    for token in TOKEN.findall(text if text.isascii() else UNSPACED.sub(" ", text)):
        is_plain = token.isascii() and token.isalpha() and not STRETCHED.search(token)
        if is_plain or token in BREAKS:
            words.append(token)
        else:
            words += _uncovered(token, is_known)
    return words


def _spelled(letters: str, is_known: Callable[[str], bool]) -> str:
    joined = letters[::2]
    if any(is_known(other) for other in (joined, *_disguises(joined))):
        return joined
    # An article before it looks like one letter more.
    return f"{joined[0]} {joined[1:]}" if is_known(joined[1:]) else letters


def _uncovered(token: str, is_known: Callable[[str], bool]) -> list[str]:
    if is_known(token):
        return [token]
    for other in _disguises(token):
        if is_known(other):
            return [other]
    return [part for part in re.split(r"[@$!*]+", token) if part]


def _disguises(token: str) -> Iterator[str]:
    if any(not char.isalpha() for char in token) and any(char.isalpha() for char in token):
        yield token.translate(LEET)
        yield token.translate(LEET_L)
    if "*" in token:
        yield from (token.replace("*", vowel) for vowel in VOWELS)
    if STRETCHED.search(token):
        yield STRETCHED.sub(r"\1\1", token)
        yield STRETCHED.sub(r"\1", token)
    if not token.isascii():
        yield token.translate(LOOKALIKES)
