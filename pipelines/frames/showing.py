"""Which of the rejected stills a contact sheet shows: a row for each reason, from all over the video. Pure."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

from pipelines.frames.candidates import Choice, Reason

ROW = 10  # places; where there are more stills, the last one says how many

T = TypeVar("T")


def row_of(group: Sequence[T]) -> list[T]:
    """Those of one reason that fit into its row."""
    num_shown = len(group) if len(group) <= ROW else ROW - 1
    return [group[place * len(group) // num_shown] for place in range(num_shown)]


def shown_of(choice: Choice) -> list[int]:
    """Indices of all rejected ones that the sheet of a choice shows."""
    groups: defaultdict[Reason, list[int]] = defaultdict(list)
    for one in choice.rejected:
        groups[one.reason].append(one.candidate.index)
    return sorted(index for group in groups.values() for index in row_of(group))
