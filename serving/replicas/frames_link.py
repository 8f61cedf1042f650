"""Ray's handle of the Frames replicas as the links that the rooms below ask for; Ray's errors become our own."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Self

from ray.serve.handle import DeploymentHandle

from pipelines.request import FramesResult
from serving.backends.base import Order
from serving.backends.frames import FramesFailure, FramesMessage
from serving.errors import AppError, Conflict, Unavailable
from serving.replicas.links import Worker, answer_of, is_up, said_by
from serving.tenancy.policies import ModerationPolicy
from serving.uploads.inspecting import Inspected, InspectOrder, UploadRefused

FRAMES_WORKER = Worker("frames", "Nobody takes stills now.", "frames")


@dataclass(frozen=True, slots=True)
class InspectFailure:
    """Why nothing can be said of a file, as it crosses the process border: plain text, no traceback of ours."""

    status: int
    code: str
    message: str

    @classmethod
    def of(cls, error: AppError) -> Self:
        return cls(error.status, error.code, error.message)

    def as_error(self) -> AppError:
        match self.status:
            case UploadRefused.status:
                return UploadRefused(self.code, self.message)
            case Conflict.status:
                return Conflict(self.message, code=self.code)
            case _:
                return Unavailable(self.message, code=self.code)


class RayFramesLink:
    """Taking stills for Routers (ExtractionLink), and looking at uploads for Apis (FramesLink)."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def extract(self, order: Order, policy: ModerationPolicy) -> AsyncGenerator[FramesMessage, None]:
        stream = self._handle.options(stream=True).extract.remote(order, policy)
        async with aclosing(said_by(stream, FRAMES_WORKER, last=(FramesResult, FramesFailure))) as said:
            async for message in said:
                yield message

    async def inspect(self, order: InspectOrder, *, timeout_s: float) -> Inspected:
        answer: Inspected | InspectFailure = await answer_of(
            self._handle.inspect.remote(order),
            timeout_s=timeout_s,
            nobody=Unavailable("Nobody looks at uploads now.", code="frames_unavailable"),
        )
        if isinstance(answer, InspectFailure):
            raise answer.as_error()
        return answer

    async def is_ready(self, *, timeout_s: float) -> bool:
        return await is_up(self._handle, timeout_s=timeout_s)
