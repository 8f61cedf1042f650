"""Uploads over a true MongoDB, with S3 in memory and looks that take no time; and what must hold when all is quiet."""

from dataclasses import dataclass
from typing import Any

from configs.settings import MongoSettings, Settings
from serving.errors import NotFound
from serving.jobs.job import Job
from serving.moderation.moderation import Moderation
from serving.mongo import Mongo, under
from serving.tenancy.policies import TenantPolicies
from serving.tenancy.tenants import Tenants
from serving.uploads.accounts import Accounts
from serving.uploads.content import Purpose
from serving.uploads.store import UploadStore
from serving.uploads.upkeep import UploadUpkeep
from serving.uploads.upload import Offer, Upload, new_upload_id
from serving.uploads.uploads import Uploads
from tests.memory_blobs import MemoryBlobs
from tests.moderators import LocalModeratorLink
from tests.uploads import QuickLook

TENANT = "alice"
WAIT_S = 20.0


class KnownJobs:
    """Where jobs are looked up: those that a test puts there."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}

    async def get(self, tenant: str, job_id: str) -> Job:
        if job_id not in self.jobs or self.jobs[job_id].tenant != tenant:
            raise NotFound(f"No job {job_id!r}.", param="id", code="job_not_found")
        return self.jobs[job_id]


@dataclass(frozen=True)
class Bench:
    """One process; `another` is a second one over the same stores."""

    mongo: Mongo
    blobs: MemoryBlobs
    look: QuickLook
    jobs: KnownJobs
    settings: Settings
    uploads: Uploads
    upkeep: UploadUpkeep

    @property
    def store(self) -> UploadStore:
        return self.uploads.store

    def another(self) -> "Bench":
        return make_bench(self.mongo, self.settings, blobs=self.blobs, look=self.look, jobs=self.jobs)

    async def send(self, data: bytes, *, purpose: Purpose = "image", goes_in_parts: bool = False) -> Upload:
        """Announced, and its bytes where they belong."""
        content_type = "image/png" if purpose == "image" else "video/mp4"
        offer = Offer("a file", content_type, len(data), purpose, goes_in_parts=goes_in_parts)
        upload = await self.uploads.announce(TENANT, offer, upload_id=new_upload_id())
        self.blobs.put(upload.incoming_key, data, content_type)
        return upload

    async def complete(self, upload: Upload) -> Upload:
        return await self.uploads.complete(TENANT, upload.id, wait_s=WAIT_S)

    async def ready(self, data: bytes, *, purpose: Purpose = "image") -> Upload:
        return await self.complete(await self.send(data, purpose=purpose))

    async def everything_fits(self) -> list[str]:
        """Asserts that what MongoDB says and what S3 holds are the same; the keys that are stored."""
        uploads = await self.mongo.of_tenant("uploads", TENANT).find(
            {"place": under(f"{TENANT}/")}, sort=[("place", 1)], limit=10_000
        )
        objects = await self.mongo.of_tenant("upload_objects", TENANT).find({}, sort=[("_id", 1)], limit=10_000)
        wanted = {key for one in objects for key in (one["file"]["key"], one["thumbnail_key"]) if key}
        assert [key for key in self.blobs.keys if key.startswith("temp/")] == []
        assert set(self.blobs.keys) == wanted, "an object without its document, or a document without its object"
        assert all(one["state"] == "stored" for one in objects)
        ready = [one for one in uploads if one["status"] == "ready"]
        assert {one["hold"]["object_id"] for one in ready} == {one["_id"] for one in objects}
        for one in ready:
            assert self.blobs.exists(one["content"]["file"]["key"]), f"{one['_id']} has lost its object"
        account = await self.mongo.of_tenant("upload_accounts", TENANT).find_one({"_id": TENANT})
        stored_bytes = sum(self.blobs.head(key).size_bytes for key in self.blobs.keys)
        assert await Accounts(self.mongo).total_bytes(TENANT) == stored_bytes
        assert account is None or (account["coming"], account["going"]) == ([], [])
        return self.blobs.keys


def make_bench(
    mongo: Mongo,
    settings: Settings,
    *,
    blobs: MemoryBlobs | None = None,
    look: QuickLook | None = None,
    jobs: KnownJobs | None = None,
) -> Bench:
    blobs = blobs or MemoryBlobs()
    look, jobs = look or QuickLook(blobs), jobs or KnownJobs()
    policies = TenantPolicies(Tenants(mongo), settings)
    moderation = Moderation(LocalModeratorLink(), policies, timeout_s=5.0)
    uploads = Uploads(mongo, blobs, jobs, look, moderation, policies, settings)
    return Bench(mongo, blobs, look, jobs, settings, uploads, UploadUpkeep.over(mongo, blobs, jobs, settings))


def bench_settings(mongo: MongoSettings, **uploads: Any) -> Settings:
    return Settings.model_validate({"mongo": mongo, "uploads": uploads, "moderation": {"action": "off"}})
