"""Which stills are kept, and which of them not everybody may see: chosen, looked at, chosen again. Stores nothing."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.frames.candidates import BadData, Candidate, Choice, Survey
from pipelines.frames.choosing import choose
from pipelines.frames.showing import shown_of
from pipelines.moderation.scores import SEXUAL, Scores
from pipelines.request import FramesRequest
from serving.errors import BadInput
from serving.moderation.link import ModeratorLink
from serving.telemetry import MODERATED
from serving.tenancy.policies import ModerationPolicy

MAX_BATCH = 64  # thumbnails on their way to the moderator at a time


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was chosen, and what was seen on the way."""

    choice: Choice
    scores: Mapping[int, float]  # of `sexual`, by candidate; those that nobody looked at are missing
    flagged: frozenset[int] = frozenset()
    hidden: frozenset[int] = frozenset()  # those of the flagged that the contact sheet must not show
    blurred: frozenset[int] = frozenset()  # those that are kept as a blur


class Judge:
    """Has all looked at that is kept or shown, and no more than that takes."""

    def __init__(self, moderator: ModeratorLink, *, timeout_s: float) -> None:
        self._moderator = moderator
        self._timeout_s = timeout_s

    async def judge(self, survey: Survey, request: FramesRequest, policy: ModerationPolicy, folder: Path) -> Verdict:
        """Thumbnails are in `folder`. Raises Unavailable where nobody looks: then nothing passes."""
        limit = policy.sexual_threshold if policy.action == "block" else None
        scores: dict[int, float] = {}
        choice = await asyncio.to_thread(choose, survey, request, scores, nsfw_limit=limit)
        if policy.action == "off":
            return Verdict(choice, scores)
        flagged: set[int] = set()
        while unseen := choice.wants_nsfw or [index for index in shown_of(choice) if index not in scores]:
            for index, found in (await self._look(survey.candidates, unseen, folder)).items():
                scores[index] = found.get(SEXUAL, 0.0)
                is_flagged = bool(policy.flagged(found))
                MODERATED.labels("frame", policy.action if is_flagged else "pass").inc()
                if is_flagged:
                    flagged.add(index)
            choice = await asyncio.to_thread(choose, survey, request, scores, nsfw_limit=limit)
        nobody: frozenset[int] = frozenset()
        return Verdict(
            choice=choice,
            scores=scores,
            flagged=frozenset(flagged),
            hidden=frozenset(flagged) if policy.action in {"block", "blur"} else nobody,
            blurred=frozenset(flagged) if policy.action == "blur" else nobody,
        )

    async def _look(self, candidates: Sequence[Candidate], indices: Collection[int], folder: Path) -> dict[int, Scores]:
        found: dict[int, Scores] = {}
        wanted = list(indices)
        for first in range(0, len(wanted), MAX_BATCH):
            some = wanted[first : first + MAX_BATCH]
            paths = [folder / candidates[index].thumbnail for index in some]
            thumbnails = await asyncio.to_thread(lambda paths: [path.read_bytes() for path in paths], paths)
            try:
                looks = await self._moderator.look(thumbnails, timeout_s=self._timeout_s)
            except BadInput as error:
                raise BadData(f"A thumbnail is no picture: {error.message}") from error
            found |= zip(some, looks, strict=True)
        return found
