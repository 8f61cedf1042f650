"""What was made from which upload. A use is written down before the job that it speaks of is stored.

So it may speak of a job that never came: such a use counts while it is young, and is left out afterwards.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Literal, Protocol

from serving.errors import Conflict, NotFound
from serving.jobs.job import Job
from serving.mongo import Collection, Document, Mongo, under

UseKind = Literal["frames", "lora", "image"]
YOUNG_S = 60.0  # a submission takes no longer from here to its job
PAGE = 200
NUM_TOGETHER = 16
MAX_TOLD = 1_000


@dataclass(frozen=True, slots=True)
class Use:
    """Something that is or was made from an upload; `id` is a job's or an adapter's."""

    kind: UseKind
    id: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How things stand with what was made from an upload."""

    made: list[Use]  # at most MAX_TOLD of them
    in_the_making: list[Use]


class Jobs(Protocol):
    """Where jobs can be looked up; JobStore is one."""

    async def get(self, tenant: str, job_id: str) -> Job:
        """Raises NotFound."""
        ...


class Lineage:
    """The upload_uses collection."""

    def __init__(self, mongo: Mongo, jobs: Jobs) -> None:
        self._mongo = mongo
        self._jobs = jobs

    async def note(self, tenant: str, upload_id: str, use: Use) -> None:
        """The same use again is the same."""
        place = _place(tenant, upload_id, use)
        document: Document = {"kind": use.kind, "used_by": use.id, "at": time.time()}
        try:
            await self._of(tenant).insert({"_id": place, "tenant": tenant, "place": place, **document})
        except Conflict:
            await self._of(tenant).update_one({"_id": place}, {"$set": document})

    async def drop(self, tenant: str, upload_id: str, use: Use) -> None:
        """It did not come to that use."""
        await self._of(tenant).delete_one({"_id": _place(tenant, upload_id, use)})

    async def standing(self, tenant: str, upload_id: str) -> Standing:
        """All that was noted, judged by the jobs as they are now."""
        standing = Standing([], [])
        last = ""
        while page := await self._page(tenant, upload_id, after=last):
            last = page[-1]["place"]
            for first in range(0, len(page), NUM_TOGETHER):
                some = page[first : first + NUM_TOGETHER]
                jobs = await asyncio.gather(*(self._find_job(tenant, use["used_by"]) for use in some))
                for document, job in zip(some, jobs, strict=True):
                    _sort(standing, document, job)
        return standing

    async def forget(self, tenant: str, upload_id: str) -> None:
        """All uses of an upload that is gone."""
        while page := await self._page(tenant, upload_id, after=""):
            for document in page:
                await self._of(tenant).delete_one({"_id": document["_id"]})

    async def _page(self, tenant: str, upload_id: str, *, after: str) -> list[Document]:
        place = under(f"{tenant}/{upload_id}/") | ({"$gt": after} if after else {})
        return await self._of(tenant).find({"place": place}, sort=[("place", 1)], limit=PAGE)

    async def _find_job(self, tenant: str, job_id: str) -> Job | None:
        try:
            return await self._jobs.get(tenant, job_id)
        except NotFound:
            return None

    def _of(self, tenant: str) -> Collection:
        return self._mongo.of_tenant("upload_uses", tenant)


def _place(tenant: str, upload_id: str, use: Use) -> str:
    return f"{tenant}/{upload_id}/{use.kind}/{use.id}"


def _sort(standing: Standing, document: Document, job: Job | None) -> None:
    use = Use(document["kind"], document["used_by"])
    is_adapter = "@" in use.id  # name@version, which is there when it is written down
    is_young = document["at"] > time.time() - YOUNG_S
    if not is_adapter and (is_young if job is None else not job.is_final):
        standing.in_the_making.append(use)
    elif (is_adapter or job is not None) and len(standing.made) < MAX_TOLD:
        standing.made.append(use)
