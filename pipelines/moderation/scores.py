"""What was seen: a score from 0 to 1 for each category. Knows no picture, no tenant and no threshold."""

from collections.abc import Iterable, Mapping

SEXUAL = "sexual"
MINORS = "sexual/minors"
CATEGORIES = (SEXUAL, MINORS)

# By category; one that is missing was not looked for. Classifiers look for SEXUAL, the text screen for both.
Scores = Mapping[str, float]


def highest(of: Iterable[Scores]) -> dict[str, float]:
    """The highest score of each category; 0 where nobody looked."""
    top = dict.fromkeys(CATEGORIES, 0.0)
    for scores in of:
        for category, score in scores.items():
            top[category] = max(top[category], score)
    return top
