"""The Frames replicas as a backend: stills out of a video. Knows no Ray: a Router hands in what calls them."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from models.errors import GenerationError
from pipelines.request import FRAMES, FramesRequest, FramesResult, Progress
from serving.backends.base import READY_TIMEOUT_S, OnProgress, Order
from serving.errors import BackendLost, Unavailable
from serving.tenancy.policies import ModerationPolicy, PolicyOf


class FramesError(GenerationError):
    """No stills can be taken from this video, now or later; the code says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class FramesFailure:
    """An attempt that gave no stills, as it crosses the process border: plain text, no traceback of ours."""

    code: str
    message: str
    may_pass: bool  # the video is not at fault: the object store or the moderator was away


FramesMessage = Progress | FramesResult | FramesFailure


class ExtractionLink(Protocol):
    """How to reach the Frames replicas. Raises BackendLost when one dies at work, Unavailable when there is none."""

    def extract(self, order: Order, policy: ModerationPolicy) -> AsyncGenerator[FramesMessage, None]: ...

    async def is_ready(self, *, timeout_s: float) -> bool: ...


class FramesBackend:
    """What a tenant may see goes along with each order: the replicas read foreign bytes and know no database."""

    id = FRAMES
    model_ids = frozenset({FRAMES})
    is_local = True

    def __init__(self, link: ExtractionLink, policy_of: PolicyOf) -> None:
        self._link = link
        self._policy_of = policy_of

    async def make(self, order: Order, *, on_progress: OnProgress) -> FramesResult:
        assert isinstance(order.request, FramesRequest), "routing sends nothing else here"
        policy = await self._policy_of(order.tenant)
        async with aclosing(self._link.extract(order, policy)) as messages:
            async for message in messages:
                if isinstance(message, FramesResult):
                    return message
                if isinstance(message, FramesFailure):
                    raise _as_error(message)
                await on_progress(message)
        raise BackendLost(f"{self.id} ended its answer without a result")

    async def is_ready(self) -> bool:
        return await self._link.is_ready(timeout_s=READY_TIMEOUT_S)


def _as_error(failure: FramesFailure) -> FramesError | Unavailable:
    if failure.may_pass:
        return Unavailable(failure.message, code=failure.code)
    return FramesError(failure.code, failure.message)
