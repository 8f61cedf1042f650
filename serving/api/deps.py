"""What a route may ask for: the services of this process, and who is calling."""

import math
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from configs.settings import Settings
from models.blobs import BlobStore
from models.spec import ModelSpec
from pipelines.request import AdapterReport, StoredFile
from serving.adapters.store import AdapterStore
from serving.api.hang_ups import HangUps
from serving.backends.training import TrainingLink
from serving.draining import Board
from serving.errors import Forbidden, Unavailable
from serving.jobs.admission import Admission
from serving.jobs.eta import Forecast
from serving.jobs.feed import News
from serving.jobs.idempotency import IdempotencyKeys
from serving.jobs.job import Job
from serving.jobs.second_chances import SecondChances
from serving.jobs.store import JobStore
from serving.jobs.submission import Submission
from serving.moderation.link import ModeratorLink
from serving.moderation.moderation import Moderation
from serving.mongo import Mongo
from serving.outbound import Outbound
from serving.tenancy.auth import Caller, KeyRing
from serving.tenancy.tenants import Tenants
from serving.uploads.uploads import Uploads
from serving.webhooks.work import Webhooks

OPERATOR_TENANT = "default"  # its admins run the server
RESTART_S = 10  # added to what a drain still takes, to tell clients when to come back


class RouterLink(Protocol):
    """How the Api reaches a Router."""

    async def drive(self, job: Job, *, timeout_s: float) -> Job | None:
        """The job once it has ended or was put back; None when that Router does not have it or was lost."""
        ...

    def follow(self, job: Job, *, timeout_s: float) -> AsyncGenerator[News | Job, None]:
        """drive(), told as it happens; last the job. Without it: that Router does not have it, or time is up."""
        ...

    async def cancel(self, job_id: str, *, timeout_s: float) -> None:
        """Tells a Router to stop work on a cancelled job. When the message is lost, the job's driver finds out."""
        ...

    def push(self, job: Job) -> None:
        """Tells a Router of the job and does not wait; when the message is lost, a Router finds the job itself."""
        ...

    async def check_adapter(self, model_id: str, file: StoredFile, *, timeout_s: float) -> AdapterReport:
        """What an engine of that model finds in the file. AdapterError refuses it; Unavailable: nobody looked."""
        ...

    async def ready_models(self, *, timeout_s: float) -> Mapping[str, bool]:
        """Which engines could start now. Empty when no Router answers in time."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """Everything the routes use, made once per Api process."""

    settings: Settings
    catalog: Mapping[str, ModelSpec]  # the models that this server serves
    mongo: Mongo
    blobs: BlobStore
    keys: KeyRing
    tenants: Tenants
    store: JobStore
    adapters: AdapterStore
    admission: Admission
    submission: Submission
    router: RouterLink
    idempotency: IdempotencyKeys
    second_chances: SecondChances
    forecast: Forecast
    board: Board
    webhooks: Webhooks
    moderator: ModeratorLink
    moderation: Moderation
    trainer: TrainingLink
    uploads: Uploads
    outbound: Outbound
    hang_ups: HangUps = field(default_factory=HangUps)


def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def caller_of(request: Request) -> Caller:
    """Set by the gatekeeper, which lets nobody without a key through to these routes."""
    caller: Caller = request.state.caller
    return caller


def operator_of(request: Request) -> Caller:
    caller = caller_of(request)
    if not (caller.is_admin and caller.tenant == OPERATOR_TENANT):
        raise Forbidden(f"This needs an admin key of the tenant {OPERATOR_TENANT!r}.")
    return caller


def admin_of(request: Request) -> Caller:
    caller = caller_of(request)
    if not caller.is_admin:
        raise Forbidden("This needs a key with role admin.")
    return caller


async def open_for_work(request: Request) -> None:
    """A dependency of the routes that make jobs: a server that is being stopped accepts none."""
    standing = await services_of(request).board.glance()
    if standing.is_draining:
        back_in_s = max(0, math.ceil(standing.drains_until - time.time())) + RESTART_S
        raise Unavailable(
            "The server is being stopped and takes nothing new; what it has accepted is kept.",
            retry_after_s=back_in_s,
            code="draining",
        )


def request_id_of(request: Request) -> str:
    request_id: str = request.state.request_id
    return request_id


# The scheme is there for the OpenAPI page ("Authorize"); the check itself is the gatekeeper's.
bearer = HTTPBearer(auto_error=False, description="An API key of this server.")

ServicesDep = Annotated[Services, Depends(services_of)]
CurrentCaller = Annotated[Caller, Depends(caller_of)]
CurrentAdmin = Annotated[Caller, Depends(admin_of)]
Operator = Annotated[Caller, Depends(operator_of)]
RequestId = Annotated[str, Depends(request_id_of)]
