"""Ray's handle of the Trainer replicas as the link that the rooms below ask for; Ray's errors become our own."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from pipelines.request import TrainedAdapter, TrainingRequest
from serving.backends.base import Order
from serving.backends.training import TrainerMessage, TrainingEstimate, TrainingFailure
from serving.errors import Unavailable
from serving.replicas.links import Worker, let_go, said_by
from serving.tenancy.policies import ModerationPolicy

TRAINER_WORKER = Worker("trainer", "Nobody trains now.", "trainer")


class RayTrainerLink:
    """The Trainer replicas (serving.backends.training.TrainingLink)."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def train(self, order: Order, policy: ModerationPolicy) -> AsyncGenerator[TrainerMessage, None]:
        stream = self._handle.options(stream=True).train.remote(order, policy)
        async with aclosing(said_by(stream, TRAINER_WORKER, last=(TrainedAdapter, TrainingFailure))) as said:
            async for message in said:
                yield message

    async def estimate(self, request: TrainingRequest, *, timeout_s: float) -> TrainingEstimate:
        call = self._handle.estimate.remote(request)
        is_complete = False
        try:
            async with asyncio.timeout(timeout_s):
                answer: TrainingEstimate | TrainingFailure = await call
            is_complete = True
        except (RayError, RayServeException, TimeoutError) as error:
            raise Unavailable("Nobody has measured it in time.", code="trainer_unavailable") from error
        finally:
            if not is_complete:
                let_go(call)
        if isinstance(answer, TrainingFailure):
            raise answer.as_error()
        return answer

    async def is_ready(self, *, timeout_s: float) -> bool:
        try:
            return bool(await asyncio.wait_for(self._handle.ping.remote(), timeout_s))
        except (RayError, RayServeException, TimeoutError):
            return False
