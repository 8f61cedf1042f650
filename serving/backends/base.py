"""Backend: one way to make a result. The driver knows no more of it than this."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from pipelines.request import GenerationRequest, GenerationResult, Preview, Progress

OnProgress = Callable[[Progress | Preview], Awaitable[None]]


class Backend(Protocol):
    """Makes results. Raises models.errors.GenerationError for the request's own failure, BackendLost for its own."""

    @property
    def id(self) -> str: ...

    @property
    def model_ids(self) -> frozenset[str]: ...

    @property
    def is_local(self) -> bool: ...

    async def make(self, job_id: str, request: GenerationRequest, *, on_progress: OnProgress) -> GenerationResult:
        """Runs the request to its end, telling `on_progress` on the way. Cancelling the task frees the backend."""
        ...

    async def is_ready(self) -> bool:
        """Whether a request given now would start without waiting for a load. Answers within 2 s."""
        ...
