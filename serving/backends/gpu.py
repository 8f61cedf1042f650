"""Our own engines as a backend. Knows no Ray: a Router hands in what calls the engine replica."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Protocol

from models.errors import AdapterError, BlobError, GenerationError, ModelError, SourceUnavailable
from pipelines.request import AdapterReport, GenerationRequest, GenerationResult, Preview, Progress, StoredFile
from serving.backends.base import READY_TIMEOUT_S, OnProgress, Order
from serving.errors import BackendLost, Unavailable


class EngineFailure:
    """A request's own failure, as it crosses the process border: plain text, no traceback of ours."""

    __slots__ = ("code", "message")

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message


EngineMessage = Progress | Preview | GenerationResult | EngineFailure


class EngineLink(Protocol):
    """How to reach the engine of one model. Raises BackendLost when its process is gone."""

    def generate(self, job_id: str, request: GenerationRequest) -> AsyncGenerator[EngineMessage, None]: ...

    async def check_adapter(self, file: StoredFile, *, timeout_s: float) -> AdapterReport | EngineFailure: ...

    async def is_ready(self, *, timeout_s: float) -> bool: ...


def read_report(answer: AdapterReport | EngineFailure) -> AdapterReport:
    """The report, or AdapterError when the adapter is at fault, else Unavailable."""
    if isinstance(answer, AdapterReport):
        return answer
    if answer.code == AdapterError.code:
        raise AdapterError(answer.message)
    raise Unavailable(answer.message, code=answer.code)


class EngineChecker:
    """serving.adapters.importing.AdapterChecker: asks the engine of the model in question."""

    def __init__(self, engines: Mapping[str, EngineLink]) -> None:
        self._engines = engines

    async def check_adapter(self, model_id: str, file: StoredFile, *, timeout_s: float) -> AdapterReport:
        try:
            return read_report(await self._engines[model_id].check_adapter(file, timeout_s=timeout_s))
        except BackendLost as error:
            raise Unavailable(f"No engine of {model_id} has looked at the adapter.", code="engine_lost") from error


def _as_error(failure: EngineFailure) -> ModelError:
    if failure.code == SourceUnavailable.code:
        # The store was away, not the request wrong: the driver tries again later.
        return BlobError(failure.message)
    error = GenerationError(failure.message)
    error.code = failure.code
    return error


class EngineBackend:
    """One local model, served by one or more replicas of our engine."""

    is_local = True

    def __init__(self, model_id: str, link: EngineLink) -> None:
        self.id = f"engine:{model_id}"
        self.model_ids = frozenset({model_id})
        self._link = link

    async def make(self, order: Order, *, on_progress: OnProgress) -> GenerationResult:
        assert isinstance(order.request, GenerationRequest), "routing sends an engine nothing else"
        # Closed at once: when on_progress raises, the traceback would keep the generator, and the engine at work.
        async with aclosing(self._link.generate(order.job_id, order.request)) as messages:
            async for message in messages:
                if isinstance(message, GenerationResult):
                    return message
                if isinstance(message, EngineFailure):
                    raise _as_error(message)
                await on_progress(message)
        raise BackendLost(f"{self.id} ended its answer without a result")

    async def is_ready(self) -> bool:
        return await self._link.is_ready(timeout_s=READY_TIMEOUT_S)
