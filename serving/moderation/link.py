"""How to reach the classifier of pictures, and what crosses the process border. Knows no Ray and no policy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from models.errors import InputImageError
from pipelines.moderation.scores import Scores
from serving.errors import BadInput, Unavailable


class ModeratorLink(Protocol):
    """The Moderator replicas."""

    @property
    def name(self) -> str:
        """Of the classifier."""
        ...

    async def look(self, pictures: Sequence[bytes], *, timeout_s: float) -> list[Scores]:
        """Scores of each picture file, in the same order.

        Raises BadInput for one that is no picture, and Unavailable with the code "moderator_unavailable" when nobody
        looked in time.
        """
        ...

    async def is_ready(self, *, timeout_s: float) -> bool: ...


@dataclass(frozen=True, slots=True)
class LookFailure:
    """One picture's own failure, as it crosses the process border: plain text, no traceback of ours."""

    code: str
    message: str


def read_scores(answer: Scores | LookFailure) -> Scores:
    """The scores, or BadInput when the picture is at fault, else Unavailable."""
    if not isinstance(answer, LookFailure):
        return answer
    if answer.code == InputImageError.code:
        raise BadInput(answer.message, code=answer.code)
    raise nobody_looked(answer.message)


def nobody_looked(message: str = "The moderator does not answer; nothing passes unseen.") -> Unavailable:
    """What every way of not getting an answer becomes."""
    return Unavailable(message, code="moderator_unavailable")
