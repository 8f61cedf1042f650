"""The Frames deployment: takes stills out of videos and looks at uploads, each in a process of its own.

It reads foreign files, so it holds no way to the database: what a tenant may see comes with the order.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing

from ray.serve.handle import DeploymentHandle

from configs.settings import Settings
from models.blobs import BlobStore
from pipelines.moderation.classifier import classifier_name
from serving.backends.base import Order
from serving.backends.frames import FramesMessage
from serving.errors import AppError
from serving.frames.extraction import Extraction
from serving.replicas.frames_link import InspectFailure
from serving.replicas.moderator_link import RayModeratorLink
from serving.telemetry import configure_logging
from serving.tenancy.policies import ModerationPolicy
from serving.uploads.inspecting import Inspected, InspectOrder
from serving.uploads.inspection import Inspection
from serving.workspace import Workspace


class Frames:
    """Works on a few videos and a few uploads at a time; the others wait. Its own loop always answers."""

    def __init__(self, settings: Settings, moderator: DeploymentHandle) -> None:
        configure_logging(settings.log, component="frames", log_dir=settings.state_dir / "logs")
        blobs = BlobStore.from_settings(settings.s3)
        self._workspace = Workspace(settings.state_dir / "work")
        link = RayModeratorLink(moderator, name=classifier_name(settings.moderation))
        self._extraction = Extraction(blobs, link, self._workspace, settings)
        self._inspection = Inspection(blobs, self._workspace, settings.uploads)

    def ping(self) -> bool:
        """Answers once it is up: Ray lets no call in before."""
        return True

    def check_health(self) -> None:
        """Ray replaces a replica whose check raises; without its folder none of its work could begin."""
        if not self._workspace.path.is_dir():
            raise RuntimeError(f"{self._workspace.path} is gone")

    async def extract(self, order: Order, policy: ModerationPolicy) -> AsyncIterator[FramesMessage]:
        """Progress on the way, and last a result or a failure. Closing it ends the work, and its process."""
        async with aclosing(self._extraction.messages(order, policy)) as messages:
            async for message in messages:
                yield message

    async def inspect(self, order: InspectOrder) -> Inspected | InspectFailure:
        """What an upload is. Cancelling it ends the look, and its process."""
        try:
            return await self._inspection.inspect(order)
        except AppError as error:
            return InspectFailure.of(error)

    def __del__(self) -> None:
        """Ray calls it when the replica is stopped."""
        if hasattr(self, "_workspace"):  # not where starting failed
            self._workspace.close()
