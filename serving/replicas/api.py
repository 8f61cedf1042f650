"""The Api deployment: one FastAPI application per replica. Loads no torch."""

from collections.abc import Mapping

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from configs.settings import Settings
from models.blobs import BlobStore
from models.spec import ModelSpec
from serving.adapters.store import AdapterStore
from serving.api.app import build_app
from serving.api.deps import Services
from serving.jobs.store import JobStore
from serving.jobs.submission import Submission
from serving.mongo import Mongo
from serving.replicas.links import RayRouterLink
from serving.telemetry import configure_logging
from serving.tenancy.auth import KeyRing
from serving.tenancy.tenants import Tenants


@serve.ingress()
class Api:
    """Accepts requests, stores them as jobs, and answers from the store."""

    def __init__(self, settings: Settings, catalog: Mapping[str, ModelSpec], router: DeploymentHandle) -> None:
        configure_logging(settings.log, component="api", log_dir=settings.state_dir / "logs")
        mongo = Mongo(settings.mongo)
        store = JobStore(mongo, settings.jobs)
        blobs = BlobStore.from_settings(settings.s3)
        adapters = AdapterStore(mongo, blobs)
        self._services = Services(
            settings=settings,
            catalog=catalog,
            mongo=mongo,
            blobs=blobs,
            keys=KeyRing(mongo),
            tenants=Tenants(mongo),
            store=store,
            adapters=adapters,
            submission=Submission(store, blobs, adapters, catalog, settings),
            router=RayRouterLink(router),
        )

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return build_app(self._services)
