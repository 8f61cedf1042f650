"""A caretaker with all that it needs, over the stores of a test."""

from collections.abc import Sequence
from typing import Any

from configs.settings import Settings
from serving.adapters.store import AdapterStore
from serving.jobs.caretaker import Caretaker, KeepsForAWhile
from serving.jobs.chores import Chores
from serving.jobs.store import JobStore
from serving.jobs.upkeep import JobUpkeep
from serving.mongo import Mongo
from serving.tenancy.policies import TenantPolicies
from serving.tenancy.tenants import Tenants
from serving.uploads.uses import UploadUses


def a_caretaker(
    mongo: Mongo,
    blobs: Any,
    settings: Settings,
    *,
    owner: str = "router-1",
    forgetful: Sequence[KeepsForAWhile] = (),
    prompt: Sequence[KeepsForAWhile] = (),
) -> Caretaker:
    jobs = settings.jobs
    return Caretaker(
        JobUpkeep(mongo, jobs),
        blobs,
        AdapterStore(mongo, blobs, UploadUses.over(mongo, JobStore(mongo, jobs))),
        TenantPolicies(Tenants(mongo), settings),
        Chores(mongo, owner=owner),
        forgetful=forgetful,
        prompt=prompt,
        settings=jobs,
    )
