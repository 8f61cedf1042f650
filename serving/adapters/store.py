"""A tenant's adapters: which versions exist, how they come and how they go. MongoDB decides, S3 follows.

A document is there before the first object and goes after the last, so whatever a crash leaves behind can be found:
begin and delete finish what an earlier one of the same tenant left. A queued job that names a version deleted
meanwhile fails when its engine asks for the file; the pin keeps it from quietly getting another version.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ParamSpec, Protocol, TypeVar

from models.adapters import AdapterFolder, AdapterManifest, ensure_kohya, manifest_from_fields, parse_reference, remove
from models.blobs import BlobStore
from models.errors import BlobError
from serving.adapters.adapter import (
    IMPORT,
    Adapter,
    Draft,
    State,
    adapter_from_document,
    draft_from_document,
    draft_to_document,
    publication,
)
from serving.errors import Conflict, NotFound, Unavailable
from serving.mongo import Collection, Document, Mongo
from serving.telemetry import get_logger

log = get_logger("adapters")

P = ParamSpec("P")
T = TypeVar("T")

MAX_VERSIONS = 1_000  # of one tenant: lists are given whole
STALE_S = 3_600.0  # an import that takes longer has died
SWEEP_LIMIT = 100
READY: State = "ready"


class UploadNotes(Protocol):
    """Where uploads are told what was made from them; UploadUses is one. Both may be repeated."""

    async def note_adapter(self, tenant: str, upload_id: str, reference: str) -> None: ...

    async def drop_adapter(self, tenant: str, upload_id: str, reference: str) -> None: ...


class AdapterStore:
    """The adapters and adapter_names collections, and the objects that they speak of."""

    def __init__(self, mongo: Mongo, blobs: BlobStore, notes: UploadNotes) -> None:
        self._mongo = mongo
        self._blobs = blobs
        self._notes = notes

    async def resolve(self, tenant: str, reference: str) -> Adapter:
        """The version that `name@version` names, or the latest of `name`. Raises NotFound."""
        parsed = parse_reference(reference)
        if parsed is None:
            raise adapter_not_found(reference)
        name, version = parsed
        query: Document = {"name": name, "state": READY} | ({} if version is None else {"version": version})
        # The latest is the highest that is ready: there is no pointer that could be wrong.
        found = await self._adapters(tenant).find(query, sort=[("version", -1)], limit=1)
        if not found:
            raise adapter_not_found(reference)
        return adapter_from_document(found[0])

    async def find_all(self, tenant: str, references: Iterable[str]) -> dict[str, Adapter]:
        """Those of `references` that exist."""

        async def look(reference: str) -> Adapter | None:
            try:
                return await self.resolve(tenant, reference)
            except NotFound:
                return None

        wanted = list(dict.fromkeys(references))
        found = await asyncio.gather(*(look(reference) for reference in wanted))
        return {reference: adapter for reference, adapter in zip(wanted, found, strict=True) if adapter is not None}

    async def versions(self, tenant: str, name: str | None = None) -> list[Adapter]:
        """All versions of a name, or of all names; newest first."""
        query: Document = {"state": READY} | ({} if name is None else {"name": name})
        # Imports that run at once may step over the limit together; the list still shows them.
        documents = await self._adapters(tenant).find(query, sort=[("created_at", -1)], limit=2 * MAX_VERSIONS)
        return [adapter_from_document(document) for document in documents]

    async def check_room(self, tenant: str) -> None:
        """Conflict where a tenant has as many versions as it may."""
        if await self._adapters(tenant).count({"state": READY}) >= MAX_VERSIONS:
            raise Conflict(f"There are {MAX_VERSIONS} versions already; delete some.", code="too_many_adapters")

    async def begin(self, tenant: str, *, name: str, base_model: str, sha256: str) -> Draft | Adapter:
        """The right to publish these bytes, or the version that they already are. Conflict while another has it."""
        await self.sweep(tenant)
        await self.check_room(tenant)
        adapters = self._adapters(tenant)
        now = time.time()
        draft = Draft(
            # The content is the id: the same bytes cannot be published twice at once.
            id=f"{tenant}/{name}/{base_model}/{sha256}",
            tenant=tenant,
            name=name,
            job=f"{IMPORT}{int(now * 1000):012x}{secrets.token_hex(8)}",
            created_at=now,
        )
        try:
            await adapters.insert(draft_to_document(draft))
        except Conflict as error:
            present = await adapters.find_one({"_id": draft.id, "state": READY})
            if present is None:
                raise Conflict(
                    "The same file is being imported or deleted right now.", code="import_running"
                ) from error
            return adapter_from_document(present)
        return draft

    async def begin_trained(
        self, tenant: str, *, user: str, name: str, base_model: str, job: str, fence: int
    ) -> Draft | Adapter:
        """The right of a job to publish its one version, or that version, once it is there.

        A later attempt takes over what an earlier one had begun. Unavailable for one that was overtaken itself.
        """
        await self.sweep(tenant)
        id = _trained_id(tenant, name, base_model, job)
        draft = Draft(id=id, tenant=tenant, name=name, job=job, created_at=time.time(), user=user, fence=fence)
        adapters = self._adapters(tenant)
        try:
            await adapters.insert(draft_to_document(draft))
        except Conflict as error:
            begun: Document = {"_id": id, "state": "importing", "fence": {"$lte": fence}}
            if (mine := await adapters.find_one_and_update(begun, {"$set": {"fence": fence}})) is not None:
                return draft_from_document(mine)
            if (present := await adapters.find_one({"_id": id, "state": READY})) is not None:
                return adapter_from_document(present)
            raise Unavailable("Another attempt publishes it, or it is being deleted.", code="adapter_busy") from error
        return draft

    async def end_trained(self, tenant: str, *, name: str, base_model: str, job: str) -> bool:
        """Nothing more comes of that job: what it had begun to publish goes. True where it had published by then."""
        adapters, id = self._adapters(tenant), _trained_id(tenant, name, base_model, job)
        await self._end(tenant, {"_id": id, "state": "importing"})
        return await adapters.find_one({"_id": id, "state": READY}) is not None

    async def number(self, draft: Draft, *, uploads: Sequence[str] = ()) -> AdapterFolder:
        """The next version of the name, which no version ever had, and the folder for it.

        Each of the uploads that it is made from is told. A draft that has its number keeps it.
        """
        if not draft.version:
            draft = replace(draft, version=await self._next_version(draft.tenant, draft.name))
            await self._change(draft, {"version": draft.version, "uploads": list(uploads)})
        for upload_id in uploads:
            await self._notes.note_adapter(draft.tenant, upload_id, draft.reference)
        return draft.folder

    async def finish(self, draft: Draft, manifest: AdapterManifest) -> Adapter:
        """The commit: from here on the version exists, and is the latest if no higher one does."""
        return adapter_from_document(await self._change(draft, publication(manifest)))

    async def abandon(self, draft: Draft) -> None:
        """Leaves nothing of a draft; where the stores are away, the next sweep does it."""
        try:
            await self._end(draft.tenant, {"_id": draft.id, "job": draft.job, "state": "importing"})
        except Unavailable as error:
            log.warning("import left behind", adapter=draft.name, import_id=draft.job, reason=error.message)

    async def delete(self, tenant: str, name: str, version: int | None = None) -> None:
        """A version, or all of a name. Gone for everybody once marked, even if removing the objects takes a retry."""
        await self.sweep(tenant)
        doomed = [a for a in await self.versions(tenant, name) if version in {None, a.version}]
        if not doomed:
            raise adapter_not_found(name if version is None else f"{name}@{version}")
        for adapter in doomed:
            await self._end(tenant, {"name": name, "version": adapter.version, "state": READY})
            log.info("adapter deleted", adapter=adapter.reference)

    async def sweep(self, tenant: str) -> None:
        """Finishes deletions and clears imports whose process died."""
        unfinished: Document = {"state": {"$in": ["deleting", "importing"]}}
        documents = await self._adapters(tenant).find(unfinished, sort=[("created_at", 1)], limit=SWEEP_LIMIT)
        for document in documents:
            is_stale = draft_from_document(document).is_import and document["created_at"] < time.time() - STALE_S
            if document["state"] == "deleting" or is_stale:
                await self._end(tenant, {key: document[key] for key in ("_id", "job", "state")})

    async def kohya_key(self, adapter: Adapter) -> str:
        """Key of the file in kohya's naming. Raises AdapterError where there is no such thing, NotFound if deleted."""

        def export() -> str:
            with TemporaryDirectory(prefix="darkroom-kohya-") as scratch:
                return ensure_kohya(self._blobs, adapter.folder, adapter.manifest, scratch=Path(scratch))

        try:
            key = await in_store(export)
        except Unavailable:
            await self.resolve(adapter.folder.tenant, adapter.reference)  # NotFound tells more, if that is why
            raise
        try:
            await self.resolve(adapter.folder.tenant, adapter.reference)
        except NotFound:
            # Deleted while we wrote: whoever comes last clears up.
            await in_store(remove, self._blobs, adapter.folder)
            raise
        return key

    async def _end(self, tenant: str, query: Document) -> None:
        """Marks first, then removes the objects, then the document; each step may be repeated."""
        adapters = self._adapters(tenant)
        document = await adapters.find_one_and_update(query, {"$set": {"state": "deleting"}})
        if document is None:
            return  # somebody else was quicker
        draft = draft_from_document(document)
        if draft.version:
            await in_store(remove, self._blobs, draft.folder)
        if document["manifest"] is not None:
            lineage = manifest_from_fields(document["manifest"]).lineage
            if lineage is not None:
                await in_store(self._blobs.delete_prefix, lineage.dataset_prefix)
        elif draft.is_import:
            await in_store(self._blobs.delete_prefix, draft.staged_prefix)
        for upload_id in document.get("uploads", ()):
            await self._notes.drop_adapter(tenant, upload_id, draft.reference)
        await adapters.delete_one({"_id": document["_id"], "job": document["job"]})

    async def _next_version(self, tenant: str, name: str) -> int:
        """Counts up in a document of its own, which outlives all versions."""
        names = self._mongo.of_tenant("adapter_names", tenant)
        name_id, one_more = f"{tenant}/{name}", {"$inc": {"last_version": 1}}
        document = await names.find_one_and_update({"_id": name_id}, one_more)
        if document is None:
            try:
                await names.insert({"_id": name_id, "name": name, "last_version": 1})
                return 1
            except Conflict:
                document = await names.find_one_and_update({"_id": name_id}, one_more)
        if document is None:
            raise Unavailable("The database did not count up.", code="database_unavailable")
        return int(document["last_version"])

    async def _change(self, draft: Draft, changes: dict[str, Any]) -> Document:
        mine: Document = {"_id": draft.id, "job": draft.job, "state": "importing", "fence": draft.fence}
        document = await self._adapters(draft.tenant).find_one_and_update(mine, {"$set": changes})
        if document is None:
            raise Conflict("It took too long and was given up.", code="import_given_up")
        return document

    def _adapters(self, tenant: str) -> Collection:
        return self._mongo.of_tenant("adapters", tenant)


def _trained_id(tenant: str, name: str, base_model: str, job: str) -> str:
    """The job is the id: it publishes once, however often it is tried."""
    return f"{tenant}/{name}/{base_model}/{job}"


def adapter_not_found(reference: str, *, param: str = "name") -> NotFound:
    """Another tenant's adapter is as unknown as one that never was."""
    return NotFound(f"No adapter {reference[:140]!r}.", param=param, code="adapter_not_found")


async def in_store(action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """A blocking call to the object store, in a thread; its failure is the caller's to repeat.

    A thread cannot be stopped. Cancelled, this waits for its end, or what it writes would come after the clearing up.
    """
    work = asyncio.create_task(asyncio.to_thread(action, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
    except BlobError as error:
        raise Unavailable("The object store did not answer.", code="storage_unavailable") from error
