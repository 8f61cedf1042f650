"""Ray handles as links: what a call failed with is told in our words, also where Ray says its own once more."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from pipelines.request import GenerationResult, Progress
from serving.errors import BackendLost, Unavailable
from serving.replicas.links import RayEngineLink, RayRouterLink
from tests.serving.house import a_job, a_request

RESULT = GenerationResult(images=(), engine_s=0.5, waited_s=0.0, device_s=0.4)
NOT_ASSIGNED = (BackPressureError(1, 1), DeploymentUnavailableError(DeploymentID("Engine")))


class Stream:
    """What a streaming call gives: its messages and then its error, which cancelling raises again."""

    def __init__(self, *messages: Any, error: Exception | None = None) -> None:
        self._messages, self._error = messages, error
        self.is_cancelled = False

    async def __aiter__(self) -> AsyncIterator[Any]:
        for message in self._messages:
            yield message
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        self.is_cancelled = True
        if self._error is not None:
            raise self._error


class Handle:
    """A handle every method of which answers with one stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def options(self, *, stream: bool) -> "Handle":
        assert stream
        return self

    def __getattr__(self, _method: str) -> "Handle":
        return self

    def remote(self, *_arguments: Any) -> Stream:
        return self._stream


async def messages_of(stream: Stream) -> list[Any]:
    return [message async for message in RayEngineLink(Handle(stream)).generate("job_1", a_request())]  # type: ignore[arg-type]


async def test_what_an_engine_says_is_passed_on_and_nothing_is_cancelled() -> None:
    stream = Stream(Progress(1, 2), RESULT)
    assert await messages_of(stream) == [Progress(1, 2), RESULT]
    assert not stream.is_cancelled


@pytest.mark.parametrize("error", NOT_ASSIGNED, ids=lambda error: type(error).__name__)
async def test_a_call_that_no_engine_took_is_to_come_again_and_blames_nobody(error: Exception) -> None:
    with pytest.raises(Unavailable) as caught:
        await messages_of(Stream(error=error))
    assert caught.value.code == "engine_unavailable"


async def test_an_engine_that_died_was_lost() -> None:
    with pytest.raises(BackendLost):
        await messages_of(Stream(Progress(1, 2), error=ActorDiedError()))


async def test_a_router_that_died_ends_what_it_told() -> None:
    link = RayRouterLink(Handle(Stream(Progress(1, 2), error=ActorDiedError())))  # type: ignore[arg-type]
    assert [news async for news in link.follow(a_job(), timeout_s=5.0)] == [Progress(1, 2)]
