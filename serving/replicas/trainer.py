"""The Trainer deployment: makes LoRAs, each in processes of its own. Light itself: loads no torch and no decoder.

It reads what clients have sent, so it holds no way to the database: what a tenant may see comes with the order.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing

from ray.serve.handle import DeploymentHandle

from configs.settings import Settings
from models.blobs import BlobStore
from models.errors import GenerationError
from models.spec import ModelSpec
from pipelines.request import TrainingRequest
from serving.backends.base import Order
from serving.backends.training import TrainerMessage, TrainingEstimate, TrainingFailure
from serving.errors import Unavailable
from serving.replicas.frames_link import RayFramesLink
from serving.telemetry import configure_logging
from serving.tenancy.policies import ModerationPolicy
from serving.training.session import TrainingSessions
from serving.training.workshop import Workshop
from serving.workspace import Workspace


class Trainer:
    """Works on a few trainings at a time; the others wait. Its own loop always answers."""

    def __init__(self, settings: Settings, models: Mapping[str, ModelSpec], frames: DeploymentHandle) -> None:
        configure_logging(settings.log, component="trainer", log_dir=settings.state_dir / "logs")
        self._workspace = Workspace(settings.state_dir / "work")
        workshop = Workshop.over(
            BlobStore.from_settings(settings.s3), RayFramesLink(frames), self._workspace, models, settings
        )
        self._sessions = TrainingSessions(workshop)

    def ping(self) -> bool:
        """Answers once it is up: Ray lets no call in before."""
        return True

    def check_health(self) -> None:
        """Ray replaces a replica whose check raises; without its folder none of its work could begin."""
        if not self._workspace.path.is_dir():
            raise RuntimeError(f"{self._workspace.path} is gone")

    async def train(self, order: Order, policy: ModerationPolicy) -> AsyncIterator[TrainerMessage]:
        """Progress and previews on the way, and last a LoRA or a failure. Closing it ends the work, and its process."""
        async with aclosing(self._sessions.messages(order, policy)) as messages:
            async for message in messages:
                yield message

    async def estimate(self, request: TrainingRequest) -> TrainingEstimate | TrainingFailure:
        """What it would take on this machine. Cancelling it ends the measuring, and its process."""
        try:
            return await self._sessions.estimate(request)
        except (GenerationError, Unavailable) as error:
            return TrainingFailure(error.code, str(error), may_pass=isinstance(error, Unavailable))

    def __del__(self) -> None:
        """Ray calls it when the replica is stopped."""
        if hasattr(self, "_workspace"):  # not where starting failed
            self._workspace.close()
