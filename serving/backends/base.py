"""Backend: one way to make a result. The driver knows no more of it than this."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from pipelines.request import FramesResult, GenerationResult, JobRequest, Preview, Progress, TrainedAdapter

READY_TIMEOUT_S = 2.0  # for an answer to whether somebody is ready
OnProgress = Callable[[Progress | Preview], Awaitable[None]]
Made = GenerationResult | FramesResult | TrainedAdapter


@dataclass(frozen=True, slots=True)
class Order:
    """One attempt at a job, as a backend is given it."""

    job_id: str
    tenant: str
    request: JobRequest
    output_prefix: str  # what a backend stores itself has keys that begin with this
    created_at: float = 0.0  # Unix seconds, of the job


class Backend(Protocol):
    """Makes results. Raises models.errors.GenerationError for the request's own failure, BackendLost for its own."""

    @property
    def id(self) -> str: ...

    @property
    def model_ids(self) -> frozenset[str]: ...

    @property
    def is_local(self) -> bool: ...

    async def make(self, order: Order, *, on_progress: OnProgress) -> Made:
        """Runs the order to its end, telling `on_progress` on the way. Cancelling the task frees the backend."""
        ...

    async def is_ready(self) -> bool:
        """Whether a request given now would start without waiting for a load. Answers within 2 s."""
        ...
