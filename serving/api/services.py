"""What an Api process is made of: every service of the routes, over one database, one bucket and one Router."""

from collections.abc import Mapping

from configs.settings import Settings
from models.blobs import BlobStore
from models.spec import ModelSpec
from serving.adapters.store import AdapterStore
from serving.api.deps import RouterLink, Services
from serving.backends.training import TrainingLink
from serving.draining import Board
from serving.jobs.admission import Admission
from serving.jobs.eta import Forecast
from serving.jobs.idempotency import IdempotencyKeys
from serving.jobs.lora_sources import TrainingSources
from serving.jobs.queue_room import QueueRoom
from serving.jobs.second_chances import SecondChances
from serving.jobs.store import JobStore
from serving.jobs.submission import Submission
from serving.moderation.link import ModeratorLink
from serving.moderation.moderation import Moderation
from serving.mongo import Mongo
from serving.outbound import Outbound
from serving.tenancy.auth import KeyRing
from serving.tenancy.policies import TenantPolicies
from serving.tenancy.tenants import Tenants
from serving.uploads.inspecting import FramesLink
from serving.uploads.uploads import Uploads
from serving.uploads.uses import UploadUses
from serving.webhooks.work import Webhooks


def make_services(
    settings: Settings,
    catalog: Mapping[str, ModelSpec],
    *,
    mongo: Mongo,
    store: JobStore,
    blobs: BlobStore,
    router: RouterLink,
    outbound: Outbound,
    moderator: ModeratorLink,
    frames: FramesLink,
    trainer: TrainingLink,
) -> Services:
    """All services, wired."""
    tenants = Tenants(mongo)
    adapters = AdapterStore(mongo, blobs, UploadUses.over(mongo, store))
    idempotency = IdempotencyKeys(mongo, keep_s=settings.api.idempotency_keep_s)
    policies = TenantPolicies(tenants, settings)
    moderation = Moderation(moderator, policies, timeout_s=settings.moderation.timeout_s)
    uploads = Uploads(mongo, blobs, store, frames, moderation, policies, settings)
    room = QueueRoom(store, settings.jobs)
    sources = TrainingSources(uploads, store, blobs)
    admission = Admission(adapters, uploads, sources, room, policies, moderation, outbound, catalog, settings)
    return Services(
        settings=settings,
        catalog=catalog,
        mongo=mongo,
        blobs=blobs,
        keys=KeyRing(mongo),
        tenants=tenants,
        store=store,
        adapters=adapters,
        admission=admission,
        submission=Submission(store, blobs, uploads, idempotency, admission, settings.jobs),
        router=router,
        idempotency=idempotency,
        second_chances=SecondChances(store, blobs, idempotency, admission, settings.jobs),
        forecast=Forecast(mongo, store),
        board=Board(mongo, settings.jobs),
        webhooks=Webhooks.over(mongo, outbound, settings.webhooks),
        moderator=moderator,
        moderation=moderation,
        trainer=trainer,
        uploads=uploads,
        outbound=outbound,
    )
