"""The Api deployment: one FastAPI application per replica. Loads no torch."""

from collections.abc import Mapping

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from configs.settings import Settings
from models.blobs import BlobStore
from models.spec import ModelSpec
from pipelines.moderation.classifier import classifier_name
from serving.api.app import build_app
from serving.api.services import make_services
from serving.jobs.store import JobStore
from serving.mongo import Mongo
from serving.outbound import Outbound
from serving.replicas.frames_link import RayFramesLink
from serving.replicas.links import RayRouterLink
from serving.replicas.moderator_link import RayModeratorLink
from serving.replicas.trainer_link import RayTrainerLink
from serving.telemetry import configure_logging


@serve.ingress()
class Api:
    """Accepts requests, stores them as jobs, and answers from the store."""

    def __init__(
        self,
        settings: Settings,
        catalog: Mapping[str, ModelSpec],
        router: DeploymentHandle,
        moderator: DeploymentHandle,
        frames: DeploymentHandle,
        trainer: DeploymentHandle,
    ) -> None:
        configure_logging(settings.log, component="api", log_dir=settings.state_dir / "logs")
        mongo = Mongo(settings.mongo)
        self._services = make_services(
            settings,
            catalog,
            mongo=mongo,
            store=JobStore(mongo, settings.jobs),
            blobs=BlobStore.from_settings(settings.s3),
            router=RayRouterLink(router),
            outbound=Outbound(settings.outbound),
            moderator=RayModeratorLink(moderator, name=classifier_name(settings.moderation)),
            frames=RayFramesLink(frames),
            trainer=RayTrainerLink(trainer),
        )

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return build_app(self._services)
