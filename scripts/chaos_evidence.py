"""Everything that a round of chaos left behind: the clients' journal, the database, the bucket, the public answers.

Collected here, judged in chaos_checks. The database is read past tenants, as only its owner may.
"""

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from chaos_journal import Entry, Order, read_journal
from chaos_pictures import KnownPicture, why_wrong

from configs.settings import Settings
from models.blobs import BlobStore
from models.errors import BlobError
from serving.errors import Unavailable
from serving.mongo import CollectionName, Mongo, Reason

MAX_DOCUMENTS = 100_000
CALL_TIMEOUT_S = 30.0
NUM_THREADS = 4


@dataclass(frozen=True, slots=True)
class FoundPicture:
    """A stored picture as a job points at it, and what its bytes turned out to be."""

    key: str
    sha256: str  # as the job says
    found_sha256: str | None  # None: there is no object
    wrong: str | None  # what is wrong with its pixels


@dataclass(frozen=True, slots=True)
class FoundJob:
    """One document of the database: only what the checks look at."""

    id: str
    tenant: str
    order: str
    status: str
    fence: int
    attempts: int
    owner: str | None
    error_code: str | None
    created_at: float
    device_s: float
    picture_keys: tuple[str, ...]
    picture_sha256: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One webhook as it arrived, and whether we took it."""

    tenant: str
    at_s: float
    headers: Mapping[str, str]
    body: str
    is_taken: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the checks judge."""

    orders: Mapping[str, Order]
    entries: Sequence[Entry]
    jobs: Sequence[FoundJob]
    answers: Mapping[str, str]  # job a client saw → its status by the public API, or what was said instead
    pictures: Mapping[str, Sequence[FoundPicture]]  # by job
    objects: Mapping[str, frozenset[str]]  # by job, all keys below its prefix
    deliveries: Sequence[Delivery] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)  # by tenant; those without one get no webhooks
    ledger_s: Mapping[str, float] = field(default_factory=dict)  # by tenant: device seconds that its share counts
    uncounted_rounds: frozenset[int] = frozenset()  # in which a Router was lost, and what it had not yet told
    backward: Sequence[str] = ()  # moves that a watcher saw and that must not be


class Inspector:
    """Collects evidence. Pictures are looked at once: what lies in the bucket at a key does not change."""

    def __init__(
        self,
        url: str,
        keys: Mapping[str, str],
        settings: Settings,
        journal: Path,
        pictures: Sequence[KnownPicture],
        *,
        secrets: Mapping[str, str],
    ) -> None:
        self._url, self._keys, self._settings, self._journal, self._known = url, keys, settings, journal, pictures
        self._secrets = secrets
        self._blobs = BlobStore.from_settings(settings.s3)
        self._looked_at: dict[str, FoundPicture] = {}

    def jobs(self, *, since: float) -> list[FoundJob] | None:
        """All jobs for pictures made since a moment; None while the database is away."""
        try:
            documents = asyncio.run(self._read("jobs", "drive_jobs", since))
            return [found_job(document) for document in documents if document["kind"] == "image"]
        except Unavailable:
            return None

    def ledger_s(self) -> dict[str, float] | None:
        """Device seconds of the tenants that order pictures, as the shares count them; None: the database is away."""
        try:
            shares = asyncio.run(self._read("shares", "share_queue", 0.0))
        except Unavailable:
            return None
        half_life_s, now = self._settings.jobs.share_half_life_s, time.time()
        return {
            share["_id"]: share["weight"] * 2.0 ** ((share["era"] - now) / half_life_s)
            for share in shares
            if share["_id"] in self._keys
        }

    def gather(self, *, since: float, round_: int | None, backward: Sequence[str]) -> Evidence | None:
        """The whole of it; None while a store is away."""
        entries = list(read_journal(self._journal, round_=round_))
        jobs = self.jobs(since=since)
        if jobs is None:
            return None
        orders = {entry.order: _order(entry) for entry in entries if entry.kind == "ordered"}
        of_tenant = {entry.job: orders[entry.order].tenant for entry in entries if entry.kind == "accepted"}
        try:
            with ThreadPoolExecutor(NUM_THREADS) as pool, httpx.Client(base_url=self._url, trust_env=False) as http:
                answers = pool.map(lambda pair: self._ask(http, *pair), of_tenant.items())
                pictures = pool.map(lambda job: [*self._look(job, orders.get(job.order))], jobs)
                objects = pool.map(self._list, jobs)
                return Evidence(
                    orders=orders,
                    entries=entries,
                    jobs=jobs,
                    answers=dict(zip(of_tenant, answers, strict=True)),
                    pictures={job.id: found for job, found in zip(jobs, pictures, strict=True)},
                    objects={job.id: keys for job, keys in zip(jobs, objects, strict=True)},
                    deliveries=[_delivery(entry) for entry in entries if entry.kind == "delivered"],
                    secrets=self._secrets,
                    backward=backward,
                )
        except BlobError:
            return None

    async def _read(self, name: CollectionName, reason: Reason, since: float) -> list[dict[str, Any]]:
        mongo = Mongo(self._settings.mongo)
        field = "created_at" if name == "jobs" else "era"
        try:
            documents = mongo.across_tenants(name, reason)
            return await documents.find({field: {"$gte": since}}, sort=[(field, 1)], limit=MAX_DOCUMENTS)
        finally:
            await mongo.close()

    def _ask(self, http: httpx.Client, job_id: str, tenant: str) -> str:
        headers = {"Authorization": f"Bearer {self._keys[tenant]}"}
        try:
            reply = http.get(f"/v1/jobs/{job_id}", headers=headers, timeout=CALL_TIMEOUT_S)
            return str(reply.json()["status"]) if reply.is_success else f"HTTP {reply.status_code}"
        except (httpx.HTTPError, ValueError) as error:
            return repr(error)

    def _look(self, job: FoundJob, order: Order | None) -> list[FoundPicture]:
        if job.status != "succeeded" or order is None:
            return []
        wanted = self._known[order.picture].pixels
        for index, (key, sha256) in enumerate(zip(job.picture_keys, job.picture_sha256, strict=True)):
            if key not in self._looked_at:
                if not self._blobs.exists(key):
                    continue  # perhaps not any more, perhaps not yet: next time we look again
                data = self._blobs.get(key)
                wrong = why_wrong(data, wanted[index]) if index < len(wanted) else "was not asked for"
                self._looked_at[key] = FoundPicture(key, sha256, hashlib.sha256(data).hexdigest(), wrong)
        pairs = zip(job.picture_keys, job.picture_sha256, strict=True)
        return [self._looked_at.get(key, FoundPicture(key, sha256, None, None)) for key, sha256 in pairs]

    def _list(self, job: FoundJob) -> frozenset[str]:
        return frozenset(blob.key for blob in self._blobs.list(f"tenants/{job.tenant}/generated-images/-/{job.id}/"))


def found_job(document: Mapping[str, Any]) -> FoundJob:
    images = (document["result"] or {}).get("images", ())
    return FoundJob(
        id=document["_id"],
        tenant=document["tenant"],
        order=document["metadata"].get("order", ""),
        status=document["status"],
        fence=document["fence"],
        attempts=document["attempts"],
        owner=document["owner"],
        error_code=(document["error"] or {}).get("code"),
        created_at=document["created_at"],
        device_s=document.get("device_s", 0.0),
        picture_keys=tuple(image["key"] for image in images),
        picture_sha256=tuple(image["sha256"] for image in images),
    )


def _order(entry: Entry) -> Order:
    return Order(id=entry.order, **entry.detail)


def _delivery(entry: Entry) -> Delivery:
    detail = entry.detail
    return Delivery(detail["tenant"], entry.at_s, detail["headers"], detail["body"], 200 <= detail["status"] < 300)
