"""Ray's handle of the Trainer replicas as the link that the rooms below ask for; Ray's errors become our own."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from ray.serve.handle import DeploymentHandle

from pipelines.request import TrainedAdapter, TrainingRequest
from serving.backends.base import Order
from serving.backends.training import TrainerMessage, TrainingEstimate, TrainingFailure
from serving.errors import Unavailable
from serving.replicas.links import Worker, answer_of, is_up, said_by
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
        answer: TrainingEstimate | TrainingFailure = await answer_of(
            self._handle.estimate.remote(request),
            timeout_s=timeout_s,
            nobody=Unavailable("Nobody has measured it in time.", code="trainer_unavailable"),
        )
        if isinstance(answer, TrainingFailure):
            raise answer.as_error()
        return answer

    async def is_ready(self, *, timeout_s: float) -> bool:
        return await is_up(self._handle, timeout_s=timeout_s)
