"""The Moderator's Ray handle as the link that the rooms below ask for; Ray's errors become Unavailable."""

import asyncio
from collections.abc import Sequence

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from pipelines.moderation.scores import Scores
from serving.moderation.link import LookFailure, nobody_looked, read_scores
from serving.replicas.links import is_up, let_go
from serving.telemetry import get_logger

log = get_logger("links")


class RayModeratorLink:
    """The Moderator replicas (serving.moderation.link.ModeratorLink)."""

    def __init__(self, handle: DeploymentHandle, *, name: str) -> None:
        self._handle = handle
        self.name = name

    async def look(self, pictures: Sequence[bytes], *, timeout_s: float) -> list[Scores]:
        # One call each: the replicas share them out, and put together what comes from everywhere.
        calls = [self._handle.look.remote(picture) for picture in pictures]
        answers: list[Scores | LookFailure] = []
        try:
            async with asyncio.timeout(timeout_s):
                for call in calls:
                    answers.append(await call)
        except (RayError, RayServeException, TimeoutError) as error:
            log.warning("nobody looked", pictures=len(pictures), reason=type(error).__name__)
            raise nobody_looked() from error
        finally:
            for call in calls[len(answers) :]:
                let_go(call)
        return [read_scores(answer) for answer in answers]

    async def is_ready(self, *, timeout_s: float) -> bool:
        return await is_up(self._handle, timeout_s=timeout_s)
