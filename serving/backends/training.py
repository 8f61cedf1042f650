"""The Trainer replicas as a backend: a LoRA out of videos and pictures. Knows no Ray: a Router hands in their link."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from models.errors import GenerationError
from pipelines.request import TRAINING, Preview, Progress, TrainedAdapter, TrainingRequest
from serving.backends.base import READY_TIMEOUT_S, OnProgress, Order
from serving.errors import BackendLost, Unavailable
from serving.tenancy.policies import ModerationPolicy, PolicyOf


class TrainingError(GenerationError):
    """No LoRA can be made of this, now or later; the code says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class TrainingFailure:
    """An attempt that gave no LoRA, as it crosses the process border: plain text, no traceback of ours."""

    code: str
    message: str
    may_pass: bool  # the request is not at fault: the object store or the Frames replicas were away

    def as_error(self) -> TrainingError | Unavailable:
        """What the one who waits is told."""
        return Unavailable(self.message, code=self.code) if self.may_pass else TrainingError(self.code, self.message)


@dataclass(frozen=True, slots=True)
class TrainingEstimate:
    """What a training takes at most on the machine that does it, where it stops by itself when it gets no better."""

    time_s: float  # from its first still to its file, waiting in line excluded
    frames_s: float  # of that, for taking stills
    memory_bytes: int  # at its peak: of the GPU where it trains on one, else of the machine
    free_bytes: int | None  # of the same memory, now; None: not known


TrainerMessage = Progress | Preview | TrainedAdapter | TrainingFailure


class TrainingLink(Protocol):
    """How to reach the Trainer replicas. Raises BackendLost when one dies at work, Unavailable when there is none."""

    def train(self, order: Order, policy: ModerationPolicy) -> AsyncGenerator[TrainerMessage, None]: ...

    async def estimate(self, request: TrainingRequest, *, timeout_s: float) -> TrainingEstimate:
        """Measured on that machine, where it was not measured before. TrainingError: it cannot be trained at all."""
        ...

    async def is_ready(self, *, timeout_s: float) -> bool: ...


class TrainingBackend:
    """What a tenant may see goes along with each order: stills are taken on the way, where nobody knows a database."""

    id = "trainer"
    model_ids = frozenset({TRAINING})
    is_local = True

    def __init__(self, link: TrainingLink, policy_of: PolicyOf) -> None:
        self._link = link
        self._policy_of = policy_of

    async def make(self, order: Order, *, on_progress: OnProgress) -> TrainedAdapter:
        assert isinstance(order.request, TrainingRequest), "routing sends nothing else here"
        policy = await self._policy_of(order.tenant)
        async with aclosing(self._link.train(order, policy)) as messages:
            async for message in messages:
                if isinstance(message, TrainedAdapter):
                    return message
                if isinstance(message, TrainingFailure):
                    raise message.as_error()
                await on_progress(message)
        raise BackendLost(f"{self.id} ended its answer without a result")

    async def is_ready(self) -> bool:
        return await self._link.is_ready(timeout_s=READY_TIMEOUT_S)
